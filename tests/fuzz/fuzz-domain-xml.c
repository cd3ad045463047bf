/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Domain XML of any content, through libvirt's parser, our checks and the way to the VMM's
 * configuration. An input that begins with '<' is the document; another chooses a golden document
 * with its first byte and changes it, four bytes each: two choose an element, an attribute or a
 * text, one what is done to it, one with what.
 */
#include <libxml/tree.h>
#include <string.h>

#include "domain-xml/offline.h"
#include "domain_conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CHANGE_BYTES = 4, MAX_CHANGES = 32 };

static const char *const values[] = {
    "",
    "0",
    "1",
    "-1",
    "65535",
    "65536",
    "9999999",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "0x10",
    "yes",
    "no",
    "on",
    "off",
    "none",
    "default",
    "virtio",
    "file",
    "..",
    "/",
    "/dev/null",
    "a,b=c",
    "1-3,^2",
    "0000:00:1f.7",
    " ",
    "\xc3\xa4",
    "&#10;",
    "%s%n",
    "52:54:00:00:00:01",
};

static kumoDriver *driver;
static GPtrArray *golden; /* of char *, sorted by file name */

static void ignore_error(void *opaque G_GNUC_UNUSED, virErrorPtr error G_GNUC_UNUSED)
{
}

static int compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void set_up(void)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GDir) dir = g_dir_open(GOLDEN_DIR, 0, NULL);
    const char *name;

    driver = kumo_offline_driver_new();
    g_assert_nonnull(driver);
    virSetErrorFunc(NULL, ignore_error);
    g_assert_nonnull(dir);
    while ((name = g_dir_read_name(dir))) {
        if (g_str_has_suffix(name, ".xml"))
            g_ptr_array_add(names, g_build_filename(GOLDEN_DIR, name, NULL));
    }
    g_ptr_array_sort(names, compare_names);
    golden = g_ptr_array_new();
    for (guint i = 0; i < names->len; i++) {
        char *text;

        g_assert_true(g_file_get_contents(names->pdata[i], &text, NULL, NULL));
        g_ptr_array_add(golden, text);
    }
    g_assert_cmpuint(golden->len, >, 0);
}

static const char *new_value(uint8_t with)
{
    return values[with % G_N_ELEMENTS(values)];
}

/* An attribute or a text: another value, one byte more, or one digit changed. */
static void change_value(xmlNodePtr holder, uint8_t how, uint8_t with)
{
    xmlChar *old = xmlNodeGetContent(holder);
    g_autoptr(GString) value = g_string_new((const char *)old);

    xmlFree(old);
    if (how % 3 == 0)
        g_string_assign(value, new_value(with));
    else if (how % 3 == 1 || value->len == 0)
        g_string_append_c(value, (char)('0' + with % 10));
    else
        value->str[with % value->len] = "0123456789abcdef"[with & 15];
    if (!g_utf8_validate(value->str, -1, NULL))
        return;
    xmlNodeSetContent(holder, NULL);
    xmlNodeAddContent(holder, (const xmlChar *)value->str);
}

static void change_element(xmlNodePtr node, uint8_t how, uint8_t with)
{
    switch (how % 4) {
    case 0:
        xmlUnlinkNode(node);
        xmlFreeNode(node);
        break;
    case 1: /* twice */
        xmlAddNextSibling(node, xmlCopyNode(node, 1));
        break;
    case 2: /* inside its neighbour */
        if (node->next && node->next->type == XML_ELEMENT_NODE)
            xmlAddChild(node->next, xmlCopyNode(node, 1));
        break;
    default:
        xmlNodeAddContent(node, (const xmlChar *)new_value(with));
    }
}

/* libvirt 9.0's parser writes beyond its memory for cells whose numbers have gaps. */
static bool is_left_alone(const xmlNode *node)
{
    return xmlStrEqual(node->name, (const xmlChar *)"numa");
}

/* Changes number *@left of the walk over @node and what is in it. Returns: TRUE when that is done.
 */
static bool change(xmlNodePtr node, unsigned *left, uint8_t how, uint8_t with)
{
    for (xmlAttrPtr attribute = node->properties; attribute; attribute = attribute->next) {
        if ((*left)-- == 0) {
            if (how & 8)
                xmlRemoveProp(attribute);
            else
                change_value((xmlNodePtr)attribute, how, with);
            return true;
        }
    }
    for (xmlNodePtr child = node->children; child; child = child->next) {
        if (child->type == XML_TEXT_NODE && !xmlIsBlankNode(child)) {
            if ((*left)-- == 0) {
                change_value(child, how, with);
                return true;
            }
        } else if (child->type == XML_ELEMENT_NODE && !is_left_alone(child)) {
            if ((*left)-- == 0) {
                change_element(child, how, with);
                return true;
            }
            if (change(child, left, how, with))
                return true;
        }
    }
    return false;
}

/* libvirt's parser allocates as many vCPUs as it is told, before it asks anybody. */
static void limit_vcpus(xmlNodePtr root)
{
    for (xmlNodePtr child = root->children; child; child = child->next) {
        xmlChar *text;

        if (!xmlStrEqual(child->name, (const xmlChar *)"vcpu"))
            continue;
        text = xmlNodeGetContent(child);
        if (xmlStrlen(text) > 5 || xmlStrchr(text, '-'))
            xmlNodeSetContent(child, (const xmlChar *)"99999");
        xmlFree(text);
    }
}

static char *changed_document(const uint8_t *data, size_t size)
{
    const char *text = golden->pdata[data[0] % golden->len];
    xmlDocPtr document = xmlReadMemory(text, (int)strlen(text), NULL, NULL, XML_PARSE_NONET);
    xmlChar *dump = NULL;
    char *result;

    g_assert_nonnull(document);
    for (size_t at = 1; at + CHANGE_BYTES <= size && at < MAX_CHANGES * CHANGE_BYTES;
         at += CHANGE_BYTES) {
        unsigned left = (data[at] | (unsigned)data[at + 1] << 8) % 512;

        change(xmlDocGetRootElement(document), &left, data[at + 2], data[at + 3]);
    }
    limit_vcpus(xmlDocGetRootElement(document));
    xmlDocDumpMemory(document, &dump, NULL);
    result = g_strdup((const char *)dump);
    xmlFree(dump);
    xmlFreeDoc(document);
    return result;
}

/* What the parser has taken is converted or refused with a reason, and shown in a way that is taken
 * again. Parsers of libvirt's own refuse some documents without one. */
static void check_taken(const char *xml)
{
    g_autoptr(virDomainDef) first = virDomainDefParseString(
        xml, driver->xmlopt, NULL, VIR_DOMAIN_DEF_PARSE_INACTIVE | VIR_DOMAIN_DEF_PARSE_ABI_UPDATE);
    g_autoptr(virDomainDef) second = NULL;
    g_autofree char *json = NULL;
    g_autofree char *shown = NULL;

    virResetLastError();
    json = kumo_offline_convert(driver, xml);
    if (!first) {
        g_assert_null(json);
        return;
    }
    if (!json)
        g_assert_nonnull(virGetLastError());
    shown = virDomainDefFormat(first, driver->xmlopt, VIR_DOMAIN_DEF_FORMAT_SECURE);
    g_assert_nonnull(shown);
    second = virDomainDefParseString(shown, driver->xmlopt, NULL, VIR_DOMAIN_DEF_PARSE_INACTIVE);
    if (!second)
        g_error("%s\nof\n%s", virGetLastErrorMessage(), shown);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *xml = NULL;

    if (!driver)
        set_up();
    if (size == 0)
        return 0;
    xml = data[0] == '<' ? g_strndup((const char *)data, size) : changed_document(data, size);
    check_taken(xml);
    virResetLastError();
    return 0;
}
