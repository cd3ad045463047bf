/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connections, and what they tell about driver and host. */
#include "driver/kumo_driver.h"

#include "driver/conf/kumo_capabilities.h"
#include "viraccessapicheck.h"
#include "virclosecallbacks.h"
#include "virstring.h"
#include "virsysinfo.h"
#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoConnectURIProbe(char **uri)
{
    g_autoptr(kumoDriverConfig) cfg = NULL;

    if (!kumoDriverInstance)
        return 0;
    cfg = kumoDriverGetConfig(kumoDriverInstance);
    *uri = g_strdup(cfg->uri);
    return 1;
}

/* kumo:///embed?root=DIR, for the driver that was set up for the same directory. */
static int kumoConnectCheckRoot(virConnectPtr conn)
{
    const char *root = NULL;

    if (STRNEQ(conn->uri->path, "/embed")) {
        virReportError(VIR_ERR_INTERNAL_ERROR,
                       _("the path '%s' of the URI is not '/embed', which the embedded driver has"),
                       conn->uri->path);
        return -1;
    }
    for (size_t i = 0; i < (size_t)conn->uri->paramsCount; i++) {
        if (STREQ(conn->uri->params[i].name, "root"))
            root = conn->uri->params[i].value;
    }
    if (!root || STRNEQ(root, kumoDriverInstance->embeddedRoot)) {
        virReportError(
            VIR_ERR_INVALID_ARG,
            _("the root directory '%s' of the URI is not '%s', which the embedded driver "
              "of this process has"),
            NULLSTR(root), kumoDriverInstance->embeddedRoot);
        return -1;
    }
    return 0;
}

virDrvOpenStatus kumoConnectOpen(virConnectPtr conn, virConnectAuthPtr auth G_GNUC_UNUSED,
                                 virConf *conf G_GNUC_UNUSED, unsigned int flags)
{
    virCheckFlags(VIR_CONNECT_RO, VIR_DRV_OPEN_ERROR);

    if (!kumoDriverInstance) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("the kumo driver is not set up"));
        return VIR_DRV_OPEN_ERROR;
    }
    if (kumoDriverInstance->embeddedRoot) {
        if (kumoConnectCheckRoot(conn) < 0)
            return VIR_DRV_OPEN_ERROR;
    } else if (!virConnectValidateURIPath(conn->uri->path, "kumo",
                                          kumoDriverInstance->privileged)) {
        return VIR_DRV_OPEN_ERROR;
    }
    if (virConnectOpenEnsureACL(conn) < 0)
        return VIR_DRV_OPEN_ERROR;

    conn->privateData = kumoDriverInstance;
    return VIR_DRV_OPEN_SUCCESS;
}

int kumoConnectClose(virConnectPtr conn)
{
    kumoDriver *driver = conn->privateData;

    virCloseCallbacksDomainRunForConn(driver->domains, conn);
    conn->privateData = NULL;
    return 0;
}

const char *kumoConnectGetType(virConnectPtr conn)
{
    if (virConnectGetTypeEnsureACL(conn) < 0)
        return NULL;
    return KUMO_DRIVER_NAME;
}

int kumoConnectGetVersion(virConnectPtr conn, unsigned long *version)
{
    if (virConnectGetVersionEnsureACL(conn) < 0)
        return -1;
    *version = KUMO_HYPERVISOR_VERSION;
    return 0;
}

char *kumoConnectGetHostname(virConnectPtr conn)
{
    if (virConnectGetHostnameEnsureACL(conn) < 0)
        return NULL;
    return virGetHostname();
}

char *kumoConnectGetSysinfo(virConnectPtr conn, unsigned int flags)
{
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;
    g_autoptr(virSysinfoDef) info = NULL;

    virCheckFlags(0, NULL);

    if (virConnectGetSysinfoEnsureACL(conn) < 0)
        return NULL;
    if (!(info = virSysinfoRead())) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, "%s",
                       _("the host's SMBIOS information is not available"));
        return NULL;
    }
    if (virSysinfoFormat(&buf, info) < 0)
        return NULL;
    return virBufferContentAndReset(&buf);
}

int kumoConnectSupportsFeature(virConnectPtr conn, int feature)
{
    int supported;

    if (virConnectSupportsFeatureEnsureACL(conn) < 0)
        return -1;
    if (virDriverFeatureIsGlobal(feature, &supported))
        return supported;
    switch (feature) {
    case VIR_DRV_FEATURE_MIGRATION_V3:
    case VIR_DRV_FEATURE_MIGRATION_P2P:
    case VIR_DRV_FEATURE_MIGRATE_CHANGE_PROTECTION:
    case VIR_DRV_FEATURE_XML_MIGRATABLE:
    case VIR_DRV_FEATURE_MIGRATION_OFFLINE:
    case VIR_DRV_FEATURE_MIGRATION_PARAMS:
        return 1;
    default:
        return 0;
    }
}

int kumoConnectIsSecure(virConnectPtr conn G_GNUC_UNUSED)
{
    return 1; /* nothing leaves the host here */
}

int kumoConnectIsEncrypted(virConnectPtr conn G_GNUC_UNUSED)
{
    return 0;
}

int kumoConnectIsAlive(virConnectPtr conn G_GNUC_UNUSED)
{
    return 1;
}

int kumoConnectGetMaxVcpus(virConnectPtr conn, const char *type)
{
    if (virConnectGetMaxVcpusEnsureACL(conn) < 0)
        return -1;
    if (type && STRCASENEQ(type, "kvm")) {
        virReportError(VIR_ERR_INVALID_ARG, _("unknown type '%s'"), type);
        return -1;
    }
    return (int)kumoMaxVcpus();
}

char *kumoConnectGetCapabilities(virConnectPtr conn)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(virCaps) caps = NULL;

    if (virConnectGetCapabilitiesEnsureACL(conn) < 0)
        return NULL;
    if (!(caps = kumoDriverGetCapabilities(driver, true)))
        return NULL;
    return virCapabilitiesFormatXML(caps);
}

char *kumoConnectGetDomainCapabilities(virConnectPtr conn, const char *emulator, const char *arch,
                                       const char *machine, const char *virttype,
                                       unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(virDomainCaps) caps = NULL;

    /* No model that we show has a feature that KVM deprecates. */
    virCheckFlags(KUMO_CAPABILITIES_WITHOUT_DEPRECATED, NULL);

    if (virConnectGetDomainCapabilitiesEnsureACL(conn) < 0)
        return NULL;
    if (!(caps = kumoDomainCapsNew(driver, emulator, arch, machine, virttype)))
        return NULL;
    return virDomainCapsFormat(caps);
}
