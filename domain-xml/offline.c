/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "domain-xml/offline.h"

#include "domain-xml/xml.h"
#include "driver/conf/kumo_address.h"
#include "driver/conf/kumo_capabilities.h"
#include "driver/conf/kumo_cpu.h"
#include "driver/conf/kumo_domain.h"

kumoDriver *kumo_offline_driver_new(void)
{
    g_autoptr(kumoDriver) driver = g_new0(kumoDriver, 1);

    if (virInitialize() < 0 || virMutexInit(&driver->lock) < 0)
        return NULL;
    if (!(driver->config = kumoDriverConfigNew(false, "/nonexistent")))
        return NULL;
    g_free(driver->config->firmware);
    driver->config->firmware = g_strdup("/usr/share/kumo/firmware");
    if (!(driver->caps = kumoCapabilitiesNew(driver)) ||
        !(driver->xmlopt = kumoDomainXMLOptionNew(driver)))
        return NULL;
    return g_steal_pointer(&driver);
}

void kumo_offline_driver_free(kumoDriver *driver)
{
    if (!driver)
        return;
    virObjectUnref(driver->xmlopt);
    virObjectUnref(driver->caps);
    virObjectUnref(driver->config);
    virMutexDestroy(&driver->lock);
    g_free(driver);
}

char *kumo_offline_convert(kumoDriver *driver, const char *xml)
{
    g_autoptr(virDomainDef) def = NULL;
    g_autoptr(KumoVmConfig) config = NULL;
    g_autofree char *text = NULL;
    json_t *json;

    if (!(def = virDomainDefParseString(xml, driver->xmlopt, NULL,
                                        VIR_DOMAIN_DEF_PARSE_INACTIVE |
                                            VIR_DOMAIN_DEF_PARSE_ABI_UPDATE)) ||
        kumoAssignAliases(def) < 0 || kumoCpuResolve(def, driver->caps->host.cpu, false) < 0 ||
        !(config =
              kumo_xml_to_config(def, driver->config->firmware, driver->config->memoryBackingDir)))
        return NULL;

    json = kumo_vm_config_to_json(config);
    text = json_dumps(json, JSON_INDENT(2) | JSON_SORT_KEYS);
    json_decref(json);
    return g_strdup_printf("%s\n", text);
}
