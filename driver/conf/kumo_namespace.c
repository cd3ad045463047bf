/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/conf/kumo_namespace.h"

#include "virstring.h"
#include "virutil.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* --- memory --- */

static void kumoNamespaceQueueFree(void *data)
{
    kumoNamespaceQueue *queue = data;

    virBitmapFree(queue->cpus);
    g_free(queue);
}

static void kumoNamespaceDeviceFree(void *data)
{
    kumoNamespaceDevice *device = data;

    g_free(device->name);
    g_free(device->lock);
    g_ptr_array_unref(device->queues);
    g_free(device);
}

static void kumoNamespaceFree(void *data)
{
    kumoNamespace *ns = data;

    if (!ns)
        return;
    g_free(ns->coreScheduling);
    g_ptr_array_unref(ns->devices);
    g_free(ns);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(kumoNamespace, kumoNamespaceFree)

/* --- reading --- */

static int kumoNamespaceRefuse(const xmlNode *node, const char *what, const char *name)
{
    virReportError(VIR_ERR_XML_ERROR, _("kumo:%s: %s '%s' is not known or not allowed here"),
                   (const char *)node->name, what, name);
    return -1;
}

/* @allowed: NULL-terminated names of attributes */
static int kumoNamespaceCheckAttributes(const xmlNode *node, const char *const *allowed)
{
    for (const xmlAttr *attr = node->properties; attr; attr = attr->next) {
        if (!g_strv_contains(allowed, (const char *)attr->name))
            return kumoNamespaceRefuse(node, "attribute", (const char *)attr->name);
    }
    return 0;
}

static int kumoNamespaceSwitch(xmlNode *node, const char *name, virTristateSwitch *ret)
{
    return virXMLPropTristateSwitch(node, name, VIR_XML_PROP_NONE, ret) < 0 ? -1 : 0;
}

static int kumoNamespaceWord(xmlNode *node, const char *name, const char *const *allowed,
                             char **ret)
{
    g_autofree char *value = virXMLPropString(node, name);

    if (!value)
        return 0;
    if (!g_strv_contains(allowed, value)) {
        virReportError(VIR_ERR_XML_ERROR, _("kumo:%s/@%s: '%s' is not allowed"),
                       (const char *)node->name, name, value);
        return -1;
    }
    g_free(*ret);
    *ret = g_steal_pointer(&value);
    return 0;
}

static int kumoNamespaceParseQueue(kumoNamespaceDevice *device, xmlNode *node)
{
    static const char *const known[] = { "number", "cpuset", NULL };
    g_autofree char *cpuset = virXMLPropString(node, "cpuset");
    g_autoptr(virBitmap) cpus = NULL;
    kumoNamespaceQueue *queue;
    unsigned int number = 0;

    if (kumoNamespaceCheckAttributes(node, known) < 0 ||
        virXMLPropUInt(node, "number", 10, VIR_XML_PROP_REQUIRED, &number) < 0)
        return -1;
    if (!cpuset || virBitmapParse(cpuset, &cpus, VIR_DOMAIN_CPUMASK_LEN) < 0 ||
        virBitmapIsAllClear(cpus)) {
        virReportError(VIR_ERR_XML_ERROR, _("kumo:queue/@cpuset: '%s' is not allowed"),
                       cpuset ? cpuset : "");
        return -1;
    }
    queue = g_new0(kumoNamespaceQueue, 1);
    queue->number = number;
    queue->cpus = g_steal_pointer(&cpus);
    g_ptr_array_add(device->queues, queue);
    return 0;
}

static int kumoNamespaceParseDevice(kumoNamespace *ns, xmlNode *node, bool isDisk)
{
    static const char *const disk[] = { "target", "sparse", "lock", NULL };
    static const char *const interface[] = { "mac", NULL };
    static const char *const locks[] = { "full", "byte-range", NULL };
    kumoNamespaceDevice *device = g_new0(kumoNamespaceDevice, 1);

    device->isDisk = isDisk;
    device->queues = g_ptr_array_new_with_free_func(kumoNamespaceQueueFree);
    g_ptr_array_add(ns->devices, device);
    if (kumoNamespaceCheckAttributes(node, isDisk ? disk : interface) < 0)
        return -1;
    if (!(device->name = virXMLPropString(node, isDisk ? "target" : "mac"))) {
        virReportError(VIR_ERR_XML_ERROR, _("kumo:%s: '%s' is missing"), (const char *)node->name,
                       isDisk ? "target" : "mac");
        return -1;
    }
    if (isDisk && (kumoNamespaceSwitch(node, "sparse", &device->sparse) < 0 ||
                   kumoNamespaceWord(node, "lock", locks, &device->lock) < 0))
        return -1;
    for (xmlNode *child = xmlFirstElementChild(node); child; child = xmlNextElementSibling(child)) {
        if (!virXMLNodeNameEqual(child, "queue"))
            return kumoNamespaceRefuse(node, "element", (const char *)child->name);
        if (kumoNamespaceParseQueue(device, child) < 0)
            return -1;
    }
    return 0;
}

static int kumoNamespaceParseElement(kumoNamespace *ns, xmlNode *node)
{
    static const char *const cpu[] = { "coreScheduling", "amx", NULL };
    static const char *const memory[] = { "thp", "mergeable", "reserve", NULL };
    static const char *const core[] = { "vm", "vcpu", "off", NULL };

    if (virXMLNodeNameEqual(node, "cpu")) {
        if (kumoNamespaceCheckAttributes(node, cpu) < 0 ||
            kumoNamespaceWord(node, "coreScheduling", core, &ns->coreScheduling) < 0 ||
            kumoNamespaceSwitch(node, "amx", &ns->amx) < 0)
            return -1;
        return 0;
    }
    if (virXMLNodeNameEqual(node, "memory")) {
        if (kumoNamespaceCheckAttributes(node, memory) < 0 ||
            kumoNamespaceSwitch(node, "thp", &ns->thp) < 0 ||
            kumoNamespaceSwitch(node, "mergeable", &ns->mergeable) < 0 ||
            kumoNamespaceSwitch(node, "reserve", &ns->reserve) < 0)
            return -1;
        return 0;
    }
    if (virXMLNodeNameEqual(node, "disk") || virXMLNodeNameEqual(node, "interface"))
        return kumoNamespaceParseDevice(ns, node, virXMLNodeNameEqual(node, "disk"));
    return kumoNamespaceRefuse(node->parent, "element", (const char *)node->name);
}

static int kumoNamespaceParse(xmlXPathContextPtr ctxt, void **data)
{
    g_autoptr(kumoNamespace) ns = g_new0(kumoNamespace, 1);
    xmlNode *node = virXPathNode("./kumo:vm", ctxt);

    ns->devices = g_ptr_array_new_with_free_func(kumoNamespaceDeviceFree);
    if (!node)
        return 0;
    for (xmlNode *child = xmlFirstElementChild(node); child; child = xmlNextElementSibling(child)) {
        if (kumoNamespaceParseElement(ns, child) < 0)
            return -1;
    }
    *data = g_steal_pointer(&ns);
    return 0;
}

/* --- writing --- */

static void kumoNamespaceFormatSwitch(virBuffer *buf, const char *name, virTristateSwitch value)
{
    if (value != VIR_TRISTATE_SWITCH_ABSENT)
        virBufferAsprintf(buf, " %s='%s'", name, virTristateSwitchTypeToString(value));
}

static int kumoNamespaceFormatDevice(virBuffer *buf, const kumoNamespaceDevice *device)
{
    g_auto(virBuffer) attributes = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) children = VIR_BUFFER_INIT_CHILD(buf);

    virBufferEscapeString(&attributes, device->isDisk ? " target='%s'" : " mac='%s'", device->name);
    kumoNamespaceFormatSwitch(&attributes, "sparse", device->sparse);
    virBufferEscapeString(&attributes, " lock='%s'", device->lock);
    for (guint i = 0; i < device->queues->len; i++) {
        const kumoNamespaceQueue *queue = device->queues->pdata[i];
        g_autofree char *cpus = virBitmapFormat(queue->cpus);

        virBufferAsprintf(&children, "<kumo:queue number='%u' cpuset='%s'/>\n", queue->number,
                          cpus);
    }
    virXMLFormatElement(buf, device->isDisk ? "kumo:disk" : "kumo:interface", &attributes,
                        &children);
    return 0;
}

static int kumoNamespaceFormat(virBuffer *buf, void *data)
{
    const kumoNamespace *ns = data;
    g_auto(virBuffer) cpu = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) memory = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) children = VIR_BUFFER_INIT_CHILD(buf);

    virBufferEscapeString(&cpu, " coreScheduling='%s'", ns->coreScheduling);
    kumoNamespaceFormatSwitch(&cpu, "amx", ns->amx);
    kumoNamespaceFormatSwitch(&memory, "thp", ns->thp);
    kumoNamespaceFormatSwitch(&memory, "mergeable", ns->mergeable);
    kumoNamespaceFormatSwitch(&memory, "reserve", ns->reserve);
    virXMLFormatElement(&children, "kumo:cpu", &cpu, NULL);
    virXMLFormatElement(&children, "kumo:memory", &memory, NULL);
    for (guint i = 0; i < ns->devices->len; i++)
        kumoNamespaceFormatDevice(&children, ns->devices->pdata[i]);
    virXMLFormatElement(buf, "kumo:vm", NULL, &children);
    return 0;
}

virXMLNamespace kumoXMLNamespace = {
    .parse = kumoNamespaceParse,
    .free = kumoNamespaceFree,
    .format = kumoNamespaceFormat,
    .prefix = "kumo",
    .uri = KUMO_NAMESPACE_URI,
};

/* --- checking --- */

static bool kumoNamespaceHasDevice(const virDomainDef *def, const kumoNamespaceDevice *device)
{
    char mac[VIR_MAC_STRING_BUFLEN];

    for (size_t i = 0; device->isDisk && i < def->ndisks; i++) {
        if (STREQ_NULLABLE(def->disks[i]->dst, device->name))
            return true;
    }
    for (size_t i = 0; !device->isDisk && i < def->nnets; i++) {
        if (STRCASEEQ(virMacAddrFormat(&def->nets[i]->mac, mac), device->name))
            return true;
    }
    return false;
}

int kumoNamespaceValidate(const virDomainDef *def)
{
    const kumoNamespace *ns = def->namespaceData;

    for (guint i = 0; ns && i < ns->devices->len; i++) {
        const kumoNamespaceDevice *device = ns->devices->pdata[i];

        if (kumoNamespaceHasDevice(def, device))
            continue;
        virReportError(VIR_ERR_XML_ERROR, _("kumo:vm/kumo:%s: the domain has no '%s'"),
                       device->isDisk ? "disk" : "interface", device->name);
        return -1;
    }
    return 0;
}
