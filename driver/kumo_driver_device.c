/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Devices that come and go. Where both the running domain and its definition change, the definition
 * is prepared first and written last: what fails between leaves both as they were.
 */
#include "driver/kumo_driver.h"

#include "domain_validate.h"
#include "driver/conf/kumo_definition.h"
#include "driver/kumo_hotplug.h"
#include "driver/kumo_update.h"
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
    return kumoHotplugAttach(vm, dev);
}

static int kumoAttachDevice(kumoUpdate *update, const char *xml)
{
    const unsigned int parseFlags = VIR_DOMAIN_DEF_PARSE_INACTIVE | VIR_DOMAIN_DEF_PARSE_ABI_UPDATE;
    virMacAddr mac = { 0 };

    if (update->config &&
        kumoAttachToDefinition(update->vm, xml, update->config, parseFlags, &mac) < 0)
        return -1;
    if (update->live &&
        kumoAttachToRunning(update->vm, xml, parseFlags, update->config ? &mac : NULL) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainAttachDeviceFlags(virDomainPtr dom, const char *xml, unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainAttachDeviceFlagsEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoAttachDevice(&update, xml);
}

int kumoDomainAttachDevice(virDomainPtr dom, const char *xml)
{
    return kumoDomainAttachDeviceFlags(dom, xml, VIR_DOMAIN_AFFECT_LIVE);
}

/* --- detaching --- */

/* What a device XML names is looked up: it need not be valid, nor say all. */
static unsigned int kumoLookupParseFlags(const kumoUpdate *update)
{
    return VIR_DOMAIN_DEF_PARSE_SKIP_VALIDATE | (update->live ? 0 : VIR_DOMAIN_DEF_PARSE_INACTIVE);
}

static int kumoDetachDevice(kumoUpdate *update, const char *xml)
{
    unsigned int parseFlags = kumoLookupParseFlags(update);
    g_autoptr(virDomainDeviceDef) dev = NULL;

    if (!(dev = virDomainDeviceDefParse(xml, update->vm->def, update->driver->xmlopt, NULL,
                                        parseFlags)))
        return -1;
    if (update->config && kumoDefinitionDetach(update->driver, update->config, dev, parseFlags) < 0)
        return -1;
    if (update->live && kumoHotplugDetach(update->vm, dev) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainDetachDeviceFlags(virDomainPtr dom, const char *xml, unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainDetachDeviceFlagsEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoDetachDevice(&update, xml);
}

int kumoDomainDetachDevice(virDomainPtr dom, const char *xml)
{
    return kumoDomainDetachDeviceFlags(dom, xml, VIR_DOMAIN_AFFECT_LIVE);
}

static int kumoDetachAlias(kumoUpdate *update, const char *alias)
{
    virDomainDeviceDef dev;

    if (update->config && (virDomainDefFindDevice(update->config, alias, &dev, true) < 0 ||
                           kumoDefinitionDetach(update->driver, update->config, &dev,
                                                kumoLookupParseFlags(update)) < 0))
        return -1;
    if (update->live && (virDomainDefFindDevice(update->live, alias, &dev, true) < 0 ||
                         kumoHotplugDetach(update->vm, &dev) < 0))
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainDetachDeviceAlias(virDomainPtr dom, const char *alias, unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainDetachDeviceAliasEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoDetachAlias(&update, alias);
}

/* --- changing --- */

static int kumoChangeDevice(kumoUpdate *update, const char *xml)
{
    unsigned int parseFlags = update->live ? 0 : VIR_DOMAIN_DEF_PARSE_INACTIVE;
    virDomainXMLOption *xmlopt = update->driver->xmlopt;
    virDomainDef *def = update->vm->def;
    g_autoptr(virDomainDeviceDef) devConfig = NULL;
    g_autoptr(virDomainDeviceDef) devLive = NULL;

    if (update->config &&
        (!(devConfig = virDomainDeviceDefParse(xml, def, xmlopt, NULL, parseFlags)) ||
         kumoDefinitionUpdate(update->driver, update->config, devConfig, parseFlags) < 0))
        return -1;
    if (update->live && (!(devLive = virDomainDeviceDefParse(xml, def, xmlopt, NULL, parseFlags)) ||
                         kumoHotplugUpdate(update->vm, devLive) < 0))
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainUpdateDeviceFlags(virDomainPtr dom, const char *xml, unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    /* There is nothing whose removal could be forced upon a guest. */
    virCheckFlags(
        VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_DOMAIN_DEVICE_MODIFY_FORCE, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainUpdateDeviceFlagsEnsureACL(dom->conn, vm->def, flags) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoChangeDevice(&update, xml);
}
