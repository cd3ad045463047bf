/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A domain in the VMM's own words, and back. */
#include "driver/kumo_driver.h"

#include "domain-xml/native.h"
#include "domain-xml/xml.h"
#include "driver/conf/kumo_address.h"
#include "driver/conf/kumo_capabilities.h"
#include "driver/conf/kumo_cpu.h"
#include "driver/kumo_prepare.h"
#include "viraccessapicheck.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

char *kumoConnectDomainXMLFromNative(virConnectPtr conn, const char *format, const char *text,
                                     unsigned int flags)
{
    g_autoptr(KumoVmConfig) config = NULL;

    virCheckFlags(0, NULL);

    if (virConnectDomainXMLFromNativeEnsureACL(conn) < 0)
        return NULL;
    if (!(config = kumo_native_parse(format, text)))
        return NULL;
    return kumo_native_to_xml(conn->privateData, config);
}

char *kumoConnectDomainXMLToNative(virConnectPtr conn, const char *format, const char *xml,
                                   unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    g_autoptr(virDomainDef) def = NULL;
    g_autoptr(virCaps) caps = NULL;
    g_autoptr(KumoVmConfig) config = NULL;
    g_autofree char *memoryDir = NULL;
    json_t *json;
    char *text;
    char *ret;

    virCheckFlags(0, NULL);

    if (virConnectDomainXMLToNativeEnsureACL(conn) < 0)
        return NULL;
    if (STRNEQ(format, KUMO_NATIVE_JSON)) {
        virReportError(VIR_ERR_INVALID_ARG, _("unsupported config type %s, only %s is"), format,
                       KUMO_NATIVE_JSON);
        return NULL;
    }
    if (!(def = virDomainDefParseString(xml, driver->xmlopt, NULL,
                                        VIR_DOMAIN_DEF_PARSE_INACTIVE |
                                            VIR_DOMAIN_DEF_PARSE_ABI_UPDATE)) ||
        kumoAssignAliases(def) < 0 || !(caps = kumoDriverGetCapabilities(driver, false)) ||
        kumoCpuResolve(def, caps->host.cpu, true) < 0)
        return NULL;
    for (size_t i = 0; i < def->ndisks; i++) {
        if (kumoPrepareDisk(driver, def->disks[i]) < 0)
            return NULL;
    }
    memoryDir = kumoDriverConfigMemoryDir(cfg, driver->embeddedRoot, def);
    if (!memoryDir || !(config = kumo_xml_to_config(def, cfg->firmware, memoryDir)))
        return NULL;

    json = kumo_vm_config_to_json(config);
    text = json_dumps(json, JSON_INDENT(2) | JSON_SORT_KEYS);
    json_decref(json);
    ret = g_strdup_printf("%s\n", text);
    free(text);
    return ret;
}
