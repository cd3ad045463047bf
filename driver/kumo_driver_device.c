/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Devices that come and go. Where both the running domain and its definition change, the definition
 * is prepared first and written last: what fails between leaves both as they were.
 */
#include "driver/kumo_driver.h"

#include "domain_validate.h"
#include "driver/conf/kumo_definition.h"
#include "driver/kumo_hotplug.h"
#include "viraccessapicheck.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* --- attaching --- */

static int kumoAttachToDefinition(virDomainObj *vm, const char *xml, virDomainDef *def,
                                  unsigned int parseFlags, virMacAddr *mac)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virDomainDeviceDef) dev = NULL;

    if (!(dev = virDomainDeviceDefParse(xml, def, priv->driver->xmlopt, NULL, parseFlags)))
        return -1;
    if (dev->type == VIR_DOMAIN_DEVICE_NET)
        virMacAddrSet(mac, &dev->data.net->mac);
    if (virDomainDeviceValidateAliasForHotplug(vm, dev, VIR_DOMAIN_AFFECT_CONFIG) < 0 ||
        virDomainDefCompatibleDevice(def, dev, NULL, VIR_DOMAIN_DEVICE_ACTION_ATTACH, false) < 0)
        return -1;
    return kumoDefinitionAttach(priv->driver, def, dev, parseFlags);
}

/* @mac: what the definition got if the XML names none, or NULL */
static int kumoAttachToRunning(virDomainObj *vm, const char *xml, unsigned int parseFlags,
                               const virMacAddr *mac)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virDomainDeviceDef) dev = NULL;

    if (!(dev = virDomainDeviceDefParse(xml, vm->def, priv->driver->xmlopt, NULL, parseFlags)))
        return -1;
    if (dev->type == VIR_DOMAIN_DEVICE_NET && mac)
        virMacAddrSet(&dev->data.net->mac, mac);
    if (virDomainDeviceValidateAliasForHotplug(vm, dev, VIR_DOMAIN_AFFECT_LIVE) < 0 ||
        virDomainDefCompatibleDevice(vm->def, dev, NULL, VIR_DOMAIN_DEVICE_ACTION_ATTACH, true) < 0)
        return -1;
    if (kumoHotplugAttach(vm, dev) < 0)
        return -1;
    kumoDomainSaveStatus(vm);
    return 0;
}

static int kumoAttachDevice(virDomainObj *vm, const char *xml, unsigned int flags)
{
    const unsigned int parseFlags = VIR_DOMAIN_DEF_PARSE_INACTIVE | VIR_DOMAIN_DEF_PARSE_ABI_UPDATE;
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virDomainDef) copy = NULL;
    virMacAddr mac = { 0 };

    if ((flags & VIR_DOMAIN_AFFECT_CONFIG) &&
        (!(copy = virDomainObjCopyPersistentDef(vm, priv->driver->xmlopt, NULL)) ||
         kumoAttachToDefinition(vm, xml, copy, parseFlags, &mac) < 0))
        return -1;
    if ((flags & VIR_DOMAIN_AFFECT_LIVE) &&
        kumoAttachToRunning(vm, xml, parseFlags, copy ? &mac : NULL) < 0)
        return -1;
    return copy ? kumoDomainSaveDefinition(vm, &copy) : 0;
}

int kumoDomainAttachDeviceFlags(virDomainPtr dom, const char *xml, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainAttachDeviceFlagsEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    if (virDomainObjUpdateModificationImpact(vm, &flags) >= 0)
        ret = kumoAttachDevice(vm, xml, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainAttachDevice(virDomainPtr dom, const char *xml)
{
    return kumoDomainAttachDeviceFlags(dom, xml, VIR_DOMAIN_AFFECT_LIVE);
}

/* --- detaching --- */

/* What a device XML names is looked up: it need not be valid, nor say all. */
static unsigned int kumoLookupParseFlags(unsigned int flags)
{
    return VIR_DOMAIN_DEF_PARSE_SKIP_VALIDATE |
           (flags & VIR_DOMAIN_AFFECT_LIVE ? 0 : VIR_DOMAIN_DEF_PARSE_INACTIVE);
}

static int kumoDetachDevice(virDomainObj *vm, const char *xml, unsigned int flags)
{
    unsigned int parseFlags = kumoLookupParseFlags(flags);
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virDomainDeviceDef) dev = NULL;
    g_autoptr(virDomainDef) copy = NULL;

    if (!(dev = virDomainDeviceDefParse(xml, vm->def, priv->driver->xmlopt, NULL, parseFlags)))
        return -1;
    if ((flags & VIR_DOMAIN_AFFECT_CONFIG) &&
        (!(copy = virDomainObjCopyPersistentDef(vm, priv->driver->xmlopt, NULL)) ||
         kumoDefinitionDetach(priv->driver, copy, dev, parseFlags) < 0))
        return -1;
    if ((flags & VIR_DOMAIN_AFFECT_LIVE) && kumoHotplugDetach(vm, dev) < 0)
        return -1;
    return copy ? kumoDomainSaveDefinition(vm, &copy) : 0;
}

int kumoDomainDetachDeviceFlags(virDomainPtr dom, const char *xml, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainDetachDeviceFlagsEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    if (virDomainObjUpdateModificationImpact(vm, &flags) >= 0)
        ret = kumoDetachDevice(vm, xml, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainDetachDevice(virDomainPtr dom, const char *xml)
{
    return kumoDomainDetachDeviceFlags(dom, xml, VIR_DOMAIN_AFFECT_LIVE);
}

static int kumoDetachAlias(virDomainObj *vm, const char *alias, unsigned int flags)
{
    unsigned int parseFlags = kumoLookupParseFlags(flags);
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virDomainDef) copy = NULL;
    virDomainDeviceDef dev;

    if ((flags & VIR_DOMAIN_AFFECT_CONFIG) &&
        (!(copy = virDomainObjCopyPersistentDef(vm, priv->driver->xmlopt, NULL)) ||
         virDomainDefFindDevice(copy, alias, &dev, true) < 0 ||
         kumoDefinitionDetach(priv->driver, copy, &dev, parseFlags) < 0))
        return -1;
    if ((flags & VIR_DOMAIN_AFFECT_LIVE) &&
        (virDomainDefFindDevice(vm->def, alias, &dev, true) < 0 || kumoHotplugDetach(vm, &dev) < 0))
        return -1;
    return copy ? kumoDomainSaveDefinition(vm, &copy) : 0;
}

int kumoDomainDetachDeviceAlias(virDomainPtr dom, const char *alias, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainDetachDeviceAliasEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    if (virDomainObjUpdateModificationImpact(vm, &flags) >= 0)
        ret = kumoDetachAlias(vm, alias, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

/* --- changing --- */

static int kumoUpdateDevice(virDomainObj *vm, const char *xml, unsigned int flags)
{
    unsigned int parseFlags = flags & VIR_DOMAIN_AFFECT_LIVE ? 0 : VIR_DOMAIN_DEF_PARSE_INACTIVE;
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virDomainDeviceDef) devConfig = NULL;
    g_autoptr(virDomainDeviceDef) devLive = NULL;
    g_autoptr(virDomainDef) copy = NULL;

    if ((flags & VIR_DOMAIN_AFFECT_CONFIG) &&
        (!(devConfig =
               virDomainDeviceDefParse(xml, vm->def, priv->driver->xmlopt, NULL, parseFlags)) ||
         !(copy = virDomainObjCopyPersistentDef(vm, priv->driver->xmlopt, NULL)) ||
         kumoDefinitionUpdate(priv->driver, copy, devConfig, parseFlags) < 0))
        return -1;
    if (flags & VIR_DOMAIN_AFFECT_LIVE) {
        if (!(devLive =
                  virDomainDeviceDefParse(xml, vm->def, priv->driver->xmlopt, NULL, parseFlags)) ||
            kumoHotplugUpdate(vm, devLive) < 0)
            return -1;
        kumoDomainSaveStatus(vm);
    }
    return copy ? kumoDomainSaveDefinition(vm, &copy) : 0;
}

int kumoDomainUpdateDeviceFlags(virDomainPtr dom, const char *xml, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    /* There is nothing whose removal could be forced upon a guest. */
    virCheckFlags(
        VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_DOMAIN_DEVICE_MODIFY_FORCE, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainUpdateDeviceFlagsEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    if (virDomainObjUpdateModificationImpact(vm, &flags) >= 0)
        ret = kumoUpdateDevice(vm, xml, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}
