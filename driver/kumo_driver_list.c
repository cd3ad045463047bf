/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which domains there are. */
#include "driver/kumo_driver.h"

#include "viraccessapicheck.h"
#include "viruuid.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoConnectListDomains(virConnectPtr conn, int *ids, int maxids)
{
    kumoDriver *driver = conn->privateData;

    if (virConnectListDomainsEnsureACL(conn) < 0)
        return -1;
    return virDomainObjListGetActiveIDs(driver->domains, ids, maxids, virConnectListDomainsCheckACL,
                                        conn);
}

int kumoConnectNumOfDomains(virConnectPtr conn)
{
    kumoDriver *driver = conn->privateData;

    if (virConnectNumOfDomainsEnsureACL(conn) < 0)
        return -1;
    return virDomainObjListNumOfDomains(driver->domains, true, virConnectNumOfDomainsCheckACL,
                                        conn);
}

int kumoConnectListDefinedDomains(virConnectPtr conn, char **const names, int maxnames)
{
    kumoDriver *driver = conn->privateData;

    if (virConnectListDefinedDomainsEnsureACL(conn) < 0)
        return -1;
    memset(names, 0, sizeof(*names) * (size_t)maxnames);
    return virDomainObjListGetInactiveNames(driver->domains, names, maxnames,
                                            virConnectListDefinedDomainsCheckACL, conn);
}

int kumoConnectNumOfDefinedDomains(virConnectPtr conn)
{
    kumoDriver *driver = conn->privateData;

    if (virConnectNumOfDefinedDomainsEnsureACL(conn) < 0)
        return -1;
    return virDomainObjListNumOfDomains(driver->domains, false,
                                        virConnectNumOfDefinedDomainsCheckACL, conn);
}

int kumoConnectListAllDomains(virConnectPtr conn, virDomainPtr **domains, unsigned int flags)
{
    kumoDriver *driver = conn->privateData;

    virCheckFlags(VIR_CONNECT_LIST_DOMAINS_FILTERS_ALL, -1);

    if (virConnectListAllDomainsEnsureACL(conn) < 0)
        return -1;
    return virDomainObjListExport(driver->domains, conn, domains, virConnectListAllDomainsCheckACL,
                                  flags);
}

static virDomainPtr kumoDomainFound(virConnectPtr conn, virDomainObj *vm)
{
    return virGetDomain(conn, vm->def->name, vm->def->uuid, vm->def->id);
}

virDomainPtr kumoDomainLookupByID(virConnectPtr conn, int id)
{
    kumoDriver *driver = conn->privateData;
    virDomainObj *vm = virDomainObjListFindByID(driver->domains, id);
    virDomainPtr dom = NULL;

    if (!vm) {
        virReportError(VIR_ERR_NO_DOMAIN, _("no domain with matching id %d"), id);
        return NULL;
    }
    if (virDomainLookupByIDEnsureACL(conn, vm->def) >= 0)
        dom = kumoDomainFound(conn, vm);
    virDomainObjEndAPI(&vm);
    return dom;
}

virDomainPtr kumoDomainLookupByUUID(virConnectPtr conn, const unsigned char *uuid)
{
    kumoDriver *driver = conn->privateData;
    virDomainObj *vm = virDomainObjListFindByUUID(driver->domains, uuid);
    char text[VIR_UUID_STRING_BUFLEN];
    virDomainPtr dom = NULL;

    if (!vm) {
        virUUIDFormat(uuid, text);
        virReportError(VIR_ERR_NO_DOMAIN, _("no domain with matching uuid '%s'"), text);
        return NULL;
    }
    if (virDomainLookupByUUIDEnsureACL(conn, vm->def) >= 0)
        dom = kumoDomainFound(conn, vm);
    virDomainObjEndAPI(&vm);
    return dom;
}

virDomainPtr kumoDomainLookupByName(virConnectPtr conn, const char *name)
{
    kumoDriver *driver = conn->privateData;
    virDomainObj *vm = virDomainObjListFindByName(driver->domains, name);
    virDomainPtr dom = NULL;

    if (!vm) {
        virReportError(VIR_ERR_NO_DOMAIN, _("no domain with matching name '%s'"), name);
        return NULL;
    }
    if (virDomainLookupByNameEnsureACL(conn, vm->def) >= 0)
        dom = kumoDomainFound(conn, vm);
    virDomainObjEndAPI(&vm);
    return dom;
}

int kumoDomainIsActive(virDomainPtr dom)
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    int ret = -1;

    if (!vm)
        return -1;
    if (virDomainIsActiveEnsureACL(dom->conn, vm->def) >= 0)
        ret = virDomainObjIsActive(vm);
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainIsPersistent(virDomainPtr dom)
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    int ret = -1;

    if (!vm)
        return -1;
    if (virDomainIsPersistentEnsureACL(dom->conn, vm->def) >= 0)
        ret = vm->persistent;
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainIsUpdated(virDomainPtr dom)
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    int ret = -1;

    if (!vm)
        return -1;
    if (virDomainIsUpdatedEnsureACL(dom->conn, vm->def) >= 0)
        ret = vm->updated;
    virDomainObjEndAPI(&vm);
    return ret;
}
