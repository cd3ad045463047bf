/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots and checkpoints of a domain. None can be made (images are raw), so these lists stay
 * empty; tools ask for them all the same.
 */
#include "driver/kumo_driver.h"

#include "viraccessapicheck.h"
#include "virdomaincheckpointobjlist.h"
#include "virdomainsnapshotobjlist.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

#define KUMO_SNAPSHOT_LIST_FLAGS                                                                   \
    (VIR_DOMAIN_SNAPSHOT_LIST_ROOTS | VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL |                       \
     VIR_DOMAIN_SNAPSHOT_FILTERS_ALL)

int kumoDomainSnapshotNum(virDomainPtr dom, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(KUMO_SNAPSHOT_LIST_FLAGS, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSnapshotNumEnsureACL(dom->conn, vm->def) >= 0)
        ret = virDomainSnapshotObjListNum(vm->snapshots, NULL, flags);
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainSnapshotListNames(virDomainPtr dom, char **names, int nnames, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(KUMO_SNAPSHOT_LIST_FLAGS, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSnapshotListNamesEnsureACL(dom->conn, vm->def) >= 0)
        ret = virDomainSnapshotObjListGetNames(vm->snapshots, NULL, names, nnames, flags);
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainListAllSnapshots(virDomainPtr dom, virDomainSnapshotPtr **snapshots,
                               unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(KUMO_SNAPSHOT_LIST_FLAGS, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainListAllSnapshotsEnsureACL(dom->conn, vm->def) >= 0)
        ret = virDomainListSnapshots(vm->snapshots, NULL, dom, snapshots, flags);
    virDomainObjEndAPI(&vm);
    return ret;
}

virDomainSnapshotPtr kumoDomainSnapshotLookupByName(virDomainPtr dom, const char *name,
                                                    unsigned int flags)
{
    virDomainObj *vm;

    virCheckFlags(0, NULL);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return NULL;
    if (virDomainSnapshotLookupByNameEnsureACL(dom->conn, vm->def) >= 0)
        virReportError(VIR_ERR_NO_DOMAIN_SNAPSHOT, _("the domain has no snapshot '%s'"), name);
    virDomainObjEndAPI(&vm);
    return NULL;
}

int kumoDomainHasCurrentSnapshot(virDomainPtr dom, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainHasCurrentSnapshotEnsureACL(dom->conn, vm->def) >= 0)
        ret = virDomainSnapshotGetCurrent(vm->snapshots) != NULL;
    virDomainObjEndAPI(&vm);
    return ret;
}

virDomainSnapshotPtr kumoDomainSnapshotCurrent(virDomainPtr dom, unsigned int flags)
{
    virDomainObj *vm;

    virCheckFlags(0, NULL);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return NULL;
    if (virDomainSnapshotCurrentEnsureACL(dom->conn, vm->def) >= 0)
        virReportError(VIR_ERR_NO_DOMAIN_SNAPSHOT, "%s", _("the domain has no current snapshot"));
    virDomainObjEndAPI(&vm);
    return NULL;
}

int kumoDomainListAllCheckpoints(virDomainPtr dom, virDomainCheckpointPtr **checkpoints,
                                 unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_CHECKPOINT_LIST_ROOTS | VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL |
                      VIR_DOMAIN_CHECKPOINT_FILTERS_ALL,
                  -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainListAllCheckpointsEnsureACL(dom->conn, vm->def) >= 0)
        ret = virDomainListCheckpoints(vm->checkpoints, NULL, dom, checkpoints, flags);
    virDomainObjEndAPI(&vm);
    return ret;
}

virDomainCheckpointPtr kumoDomainCheckpointLookupByName(virDomainPtr dom, const char *name,
                                                        unsigned int flags)
{
    virDomainObj *vm;

    virCheckFlags(0, NULL);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return NULL;
    if (virDomainCheckpointLookupByNameEnsureACL(dom->conn, vm->def) >= 0)
        virReportError(VIR_ERR_NO_DOMAIN_CHECKPOINT, _("the domain has no checkpoint '%s'"), name);
    virDomainObjEndAPI(&vm);
    return NULL;
}
