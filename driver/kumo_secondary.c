/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_secondary.h"

#include "domain_nwfilter.h"
#include "driver/daemon/secondary_uri.h"
#include "viridentity.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_secondary");

static virConnectPtr kumoSecondaryOpen(kumoDriver *driver, const char *scheme)
{
    g_autofree char *uri =
        g_strdup_printf("%s:///%s", scheme, geteuid() == 0 ? "system" : "session");
    g_autoptr(virIdentity) identity = NULL;
    virConnectPtr conn = virConnectOpen(kumoSecondaryURI(uri));

    if (!conn)
        return NULL;

    /* The other driver checks the rights of whom this one works for. */
    if (!driver->embeddedRoot && conn->driver->connectSetIdentity &&
        (identity = virIdentityGetCurrent())) {
        g_autoptr(virTypedParamList) params = virIdentityGetParameters(identity);
        virTypedParameterPtr list;
        size_t n;

        if (!params || kumoCompatFetchParams(params, &list, &n) < 0 ||
            virConnectSetIdentity(conn, list, (int)n, 0) < 0) {
            virErrorPtr saved = NULL;

            virErrorPreserveLast(&saved);
            virConnectClose(conn);
            virErrorRestore(&saved);
            return NULL;
        }
    }
    return conn;
}

virConnectPtr kumoSecondaryNetwork(kumoDriver *driver)
{
    virConnectPtr conn = kumoSecondaryOpen(driver, "network");

    if (conn && virSetConnectNetwork(conn) < 0) {
        virConnectClose(conn);
        return NULL;
    }
    return conn;
}

void kumoSecondaryNetworkDone(virConnectPtr conn)
{
    virErrorPtr saved = NULL;

    if (!conn)
        return;
    virErrorPreserveLast(&saved);
    virSetConnectNetwork(NULL);
    virConnectClose(conn);
    virErrorRestore(&saved);
}

virConnectPtr kumoSecondaryNodeDevice(kumoDriver *driver)
{
    virConnectPtr conn = kumoSecondaryOpen(driver, "nodedev");

    if (conn && virSetConnectNodeDev(conn) < 0) {
        virConnectClose(conn);
        return NULL;
    }
    return conn;
}

void kumoSecondaryNodeDeviceDone(virConnectPtr conn)
{
    virErrorPtr saved = NULL;

    virErrorPreserveLast(&saved);
    virSetConnectNodeDev(NULL);
    virConnectClose(conn);
    virErrorRestore(&saved);
}

int kumoSecondaryFilter(kumoDriver *driver, const virDomainDef *def, virDomainNetDef *net,
                        bool maybeThere)
{
    virErrorPtr saved = NULL;
    virConnectPtr conn = kumoSecondaryOpen(driver, "nwfilter");
    int rc;

    if (!conn)
        return -1;
    rc = virSetConnectNWFilter(conn);
    if (rc == 0)
        rc = virDomainConfNWFilterInstantiate(def->name, def->uuid, net, maybeThere);

    virErrorPreserveLast(&saved);
    virSetConnectNWFilter(NULL);
    virConnectClose(conn);
    virErrorRestore(&saved);
    return rc;
}

void kumoSecondaryFilterRemove(kumoDriver *driver, virDomainNetDef *net)
{
    virErrorPtr saved = NULL;
    virConnectPtr conn;

    virErrorPreserveLast(&saved);
    if ((conn = kumoSecondaryOpen(driver, "nwfilter")) && virSetConnectNWFilter(conn) == 0)
        virDomainConfNWFilterTeardown(net);
    else
        VIR_WARN("the filter of %s could not be removed: %s", NULLSTR(net->ifname),
                 virGetLastErrorMessage());
    virSetConnectNWFilter(NULL);
    if (conn)
        virConnectClose(conn);
    virErrorRestore(&saved);
}

int kumoSecondaryTranslateVolume(kumoDriver *driver, virDomainDiskDef *disk)
{
    virErrorPtr saved = NULL;
    virConnectPtr conn = kumoSecondaryOpen(driver, "storage");
    int rc;

    if (!conn)
        return -1;
    rc = virSetConnectStorage(conn);
    if (rc == 0)
        rc = virDomainDiskTranslateSourcePool(disk);

    virErrorPreserveLast(&saved);
    virSetConnectStorage(NULL);
    virConnectClose(conn);
    virErrorRestore(&saved);
    return rc;
}
