/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_cookie.h"

#include "virbuffer.h"
#include "virutil.h"
#include "viruuid.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* More is no cookie. */
#define KUMO_COOKIE_MAX (8 * 1024 * 1024)

/* The numbers of a job by name, to be written and read alike. */
static const struct {
    const char *name;
    size_t offset;
} kumoCookieNumbers[] = {
    { "total", offsetof(kumoJobStats, totalBytes) },
    { "remaining", offsetof(kumoJobStats, remainingBytes) },
    { "sent", offsetof(kumoJobStats, sentBytes) },
    { "data", offsetof(kumoJobStats, dataPages) },
    { "zeros", offsetof(kumoJobStats, zeroPages) },
    { "rate", offsetof(kumoJobStats, bytesPerSecond) },
    { "dirty", offsetof(kumoJobStats, dirtyPagesPerSecond) },
    { "iteration", offsetof(kumoJobStats, iteration) },
    { "downtime", offsetof(kumoJobStats, downtimeMs) },
    { "setup", offsetof(kumoJobStats, setupMs) },
};

void kumoCookieFree(kumoCookie *cookie)
{
    if (!cookie)
        return;
    g_free(cookie->name);
    g_free(cookie->uuid);
    g_free(cookie->hostname);
    g_free(cookie->hostUuid);
    g_free(cookie->persistentXml);
    g_strfreev(cookie->netAliases);
    g_free(cookie);
}

kumoCookie *kumoCookieNew(const virDomainDef *def)
{
    kumoCookie *cookie = g_new0(kumoCookie, 1);
    char uuid[VIR_UUID_STRING_BUFLEN];

    virUUIDFormat(def->uuid, uuid);
    cookie->uuid = g_strdup(uuid);
    cookie->name = g_strdup(def->name);
    cookie->netAliases = g_new0(char *, def->nnets + 1);
    for (size_t i = 0; i < def->nnets; i++)
        cookie->netAliases[i] = g_strdup(def->nets[i]->info.alias ? def->nets[i]->info.alias : "");
    return cookie;
}

int kumoCookieSetHost(kumoCookie *cookie)
{
    unsigned char host[VIR_UUID_BUFLEN];
    char text[VIR_UUID_STRING_BUFLEN];

    if (virGetHostUUID(host) < 0) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("this host's UUID is not known"));
        return -1;
    }
    virUUIDFormat(host, text);
    g_free(cookie->hostUuid);
    cookie->hostUuid = g_strdup(text);
    g_free(cookie->hostname);
    return (cookie->hostname = virGetHostname()) ? 0 : -1;
}

char *kumoCookieFormat(const kumoCookie *cookie)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;

    virBufferAddLit(&buf, "<kumo-cookie>\n");
    virBufferAdjustIndent(&buf, 2);
    virBufferEscapeString(&buf, "<name>%s</name>\n", cookie->name);
    virBufferEscapeString(&buf, "<uuid>%s</uuid>\n", cookie->uuid);
    virBufferEscapeString(&buf, "<hostname>%s</hostname>\n", cookie->hostname);
    virBufferEscapeString(&buf, "<hostuuid>%s</hostuuid>\n", cookie->hostUuid);
    for (char **alias = cookie->netAliases; alias && *alias; alias++)
        virBufferEscapeString(&buf, "<interface alias='%s'/>\n", *alias);
    virBufferEscapeString(&buf, "<persistent>%s</persistent>\n", cookie->persistentXml);
    if (cookie->runsAtSource)
        virBufferAddLit(&buf, "<runs-at-source/>\n");
    if (cookie->hasStats) {
        virBufferAsprintf(&buf, "<statistics elapsed='%llu'", cookie->elapsedMs);
        for (size_t i = 0; i < G_N_ELEMENTS(kumoCookieNumbers); i++)
            virBufferAsprintf(
                &buf, " %s='%llu'", kumoCookieNumbers[i].name,
                G_STRUCT_MEMBER(unsigned long long, &cookie->stats, kumoCookieNumbers[i].offset));
        virBufferAddLit(&buf, "/>\n");
    }
    virBufferAdjustIndent(&buf, -2);
    virBufferAddLit(&buf, "</kumo-cookie>\n");
    return virBufferContentAndReset(&buf);
}

static int kumoCookieParseStats(kumoCookie *cookie, xmlXPathContextPtr ctxt)
{
    if (virXPathBoolean("boolean(./statistics)", ctxt) != 1)
        return 0;
    if (virXPathULongLong("string(./statistics/@elapsed)", ctxt, &cookie->elapsedMs) < 0)
        goto wrong;
    for (size_t i = 0; i < G_N_ELEMENTS(kumoCookieNumbers); i++) {
        g_autofree char *path =
            g_strdup_printf("string(./statistics/@%s)", kumoCookieNumbers[i].name);

        if (virXPathULongLong(path, ctxt,
                              G_STRUCT_MEMBER_P(&cookie->stats, kumoCookieNumbers[i].offset)) == -2)
            goto wrong;
    }
    cookie->hasStats = true;
    cookie->stats.hasDowntime = true;
    cookie->stats.hasSetup = true;
    return 0;

wrong:
    virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("a migration cookie with wrong statistics"));
    return -1;
}

static int kumoCookieParseAliases(kumoCookie *cookie, xmlXPathContextPtr ctxt)
{
    g_autofree xmlNodePtr *nodes = NULL;
    int n = virXPathNodeSet("./interface", ctxt, &nodes);

    if (n < 0)
        return -1;
    cookie->netAliases = g_new0(char *, (size_t)n + 1);
    for (int i = 0; i < n; i++) {
        if (!(cookie->netAliases[i] = virXMLPropString(nodes[i], "alias"))) {
            virReportError(VIR_ERR_INTERNAL_ERROR, "%s",
                           _("a migration cookie with an interface without alias"));
            return -1;
        }
    }
    return 0;
}

kumoCookie *kumoCookieParse(const char *text, size_t len)
{
    g_autoptr(kumoCookie) cookie = g_new0(kumoCookie, 1);
    g_autofree char *copy = NULL;
    g_autoptr(xmlDoc) doc = NULL;
    g_autoptr(xmlXPathContext) ctxt = NULL;

    if (!text || len == 0)
        return g_steal_pointer(&cookie);
    if (len > KUMO_COOKIE_MAX) {
        virReportError(VIR_ERR_INTERNAL_ERROR, _("a migration cookie of %zu bytes is too long"),
                       len);
        return NULL;
    }
    copy = g_strndup(text, len);
    if (!(doc = virXMLParseStringCtxt(copy, _("(migration cookie)"), &ctxt)))
        return NULL;
    if (!virXMLNodeNameEqual(ctxt->node, "kumo-cookie")) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s",
                       _("the migration cookie was not made by the kumo driver"));
        return NULL;
    }
    cookie->name = virXPathString("string(./name)", ctxt);
    cookie->uuid = virXPathString("string(./uuid)", ctxt);
    cookie->hostname = virXPathString("string(./hostname)", ctxt);
    cookie->hostUuid = virXPathString("string(./hostuuid)", ctxt);
    cookie->persistentXml = virXPathString("string(./persistent)", ctxt);
    cookie->runsAtSource = virXPathBoolean("boolean(./runs-at-source)", ctxt) == 1;
    if (kumoCookieParseAliases(cookie, ctxt) < 0 || kumoCookieParseStats(cookie, ctxt) < 0)
        return NULL;
    return g_steal_pointer(&cookie);
}

int kumoCookieCheckHost(const kumoCookie *cookie)
{
    g_autoptr(kumoCookie) own = g_new0(kumoCookie, 1);

    if (kumoCookieSetHost(own) < 0)
        return -1;
    if (g_strcmp0(cookie->hostUuid, own->hostUuid) != 0)
        return 0;
    virReportError(VIR_ERR_OPERATION_INVALID,
                   _("domain '%s' cannot be migrated to its own host (%s, %s)"),
                   NULLSTR(cookie->name), own->hostname, own->hostUuid);
    return -1;
}

int kumoCookieApply(const kumoCookie *cookie, virDomainDef *def)
{
    if (!cookie->netAliases)
        return 0;
    if (g_strv_length(cookie->netAliases) != def->nnets) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("domain '%s' has %zu interfaces, its saved or migrated VM has %u"),
                       def->name, def->nnets, g_strv_length(cookie->netAliases));
        return -1;
    }
    for (size_t i = 0; i < def->nnets; i++) {
        virDomainDeviceInfo *info = &def->nets[i]->info;

        if (info->alias || cookie->netAliases[i][0] == '\0')
            continue;
        info->alias = g_strdup(cookie->netAliases[i]);
    }
    return 0;
}
