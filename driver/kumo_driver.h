/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The functions behind libvirt's API, by area: kumo_driver_<area>.c. Their contracts are those of
 * the public functions of the same names. The tables that name them are in kumo_driver.c.
 *
 * Each has the same shape: check the flags, look the object up, check the caller's rights, begin a
 * job if something is changed or the VMM is asked, check the state, work, end the job, let go of
 * the object. What may change a domain that runs, its definition, or both goes by kumo_update.h.
 */
#pragma once

#include "driver/conf/kumo_conf.h"
#include "driver/conf/kumo_domain.h"

#include "datatypes.h"

/* The version that the driver reports: kumo's own, which is newer than what tools ask QEMU for. */
#define KUMO_HYPERVISOR_VERSION 26011000UL

/* kumo_driver_state.c */
extern kumoDriver *kumoDriverInstance;

virDrvStateInitResult kumoStateInitialize(bool privileged, const char *root, bool monolithic,
                                          virStateInhibitCallback callback, void *opaque);
int kumoStateCleanup(void);
int kumoStateReload(void);

/* kumo_driver_connect.c */
int kumoConnectURIProbe(char **uri);
virDrvOpenStatus kumoConnectOpen(virConnectPtr conn, virConnectAuthPtr auth, virConf *conf,
                                 unsigned int flags);
int kumoConnectClose(virConnectPtr conn);
const char *kumoConnectGetType(virConnectPtr conn);
int kumoConnectGetVersion(virConnectPtr conn, unsigned long *version);
char *kumoConnectGetHostname(virConnectPtr conn);
char *kumoConnectGetSysinfo(virConnectPtr conn, unsigned int flags);
int kumoConnectSupportsFeature(virConnectPtr conn, int feature);
int kumoConnectIsSecure(virConnectPtr conn);
int kumoConnectIsEncrypted(virConnectPtr conn);
int kumoConnectIsAlive(virConnectPtr conn);
int kumoConnectGetMaxVcpus(virConnectPtr conn, const char *type);
char *kumoConnectGetCapabilities(virConnectPtr conn);
char *kumoConnectGetDomainCapabilities(virConnectPtr conn, const char *emulator, const char *arch,
                                       const char *machine, const char *virttype,
                                       unsigned int flags);

/* kumo_driver_node.c */
int kumoNodeGetInfo(virConnectPtr conn, virNodeInfoPtr info);
int kumoNodeGetCPUMap(virConnectPtr conn, unsigned char **cpumap, unsigned int *online,
                      unsigned int flags);
int kumoNodeGetCPUStats(virConnectPtr conn, int cpu, virNodeCPUStatsPtr params, int *nparams,
                        unsigned int flags);
int kumoNodeGetMemoryStats(virConnectPtr conn, int cell, virNodeMemoryStatsPtr params, int *nparams,
                           unsigned int flags);
int kumoNodeGetCellsFreeMemory(virConnectPtr conn, unsigned long long *free, int startCell,
                               int maxCells);
unsigned long long kumoNodeGetFreeMemory(virConnectPtr conn);
int kumoNodeGetFreePages(virConnectPtr conn, unsigned int npages, unsigned int *pages,
                         int startCell, unsigned int cellCount, unsigned long long *counts,
                         unsigned int flags);
int kumoNodeAllocPages(virConnectPtr conn, unsigned int npages, unsigned int *sizes,
                       unsigned long long *counts, int startCell, unsigned int cellCount,
                       unsigned int flags);
int kumoNodeGetMemoryParameters(virConnectPtr conn, virTypedParameterPtr params, int *nparams,
                                unsigned int flags);
int kumoNodeSetMemoryParameters(virConnectPtr conn, virTypedParameterPtr params, int nparams,
                                unsigned int flags);
int kumoNodeGetSecurityModel(virConnectPtr conn, virSecurityModelPtr model);
int kumoNodeSuspendForDuration(virConnectPtr conn, unsigned int target, unsigned long long duration,
                               unsigned int flags);

/* kumo_driver_nodedev.c */
int kumoNodeDeviceDettach(virNodeDevicePtr dev);
int kumoNodeDeviceDetachFlags(virNodeDevicePtr dev, const char *driverName, unsigned int flags);
int kumoNodeDeviceReAttach(virNodeDevicePtr dev);
int kumoNodeDeviceReset(virNodeDevicePtr dev);

/* kumo_driver_list.c */
int kumoConnectListDomains(virConnectPtr conn, int *ids, int maxids);
int kumoConnectNumOfDomains(virConnectPtr conn);
int kumoConnectListDefinedDomains(virConnectPtr conn, char **const names, int maxnames);
int kumoConnectNumOfDefinedDomains(virConnectPtr conn);
int kumoConnectListAllDomains(virConnectPtr conn, virDomainPtr **domains, unsigned int flags);
virDomainPtr kumoDomainLookupByID(virConnectPtr conn, int id);
virDomainPtr kumoDomainLookupByUUID(virConnectPtr conn, const unsigned char *uuid);
virDomainPtr kumoDomainLookupByName(virConnectPtr conn, const char *name);
int kumoDomainIsActive(virDomainPtr dom);
int kumoDomainIsPersistent(virDomainPtr dom);
int kumoDomainIsUpdated(virDomainPtr dom);

/* kumo_driver_define.c */
virDomainPtr kumoDomainDefineXML(virConnectPtr conn, const char *xml);
virDomainPtr kumoDomainDefineXMLFlags(virConnectPtr conn, const char *xml, unsigned int flags);
int kumoDomainUndefine(virDomainPtr dom);
int kumoDomainUndefineFlags(virDomainPtr dom, unsigned int flags);
char *kumoDomainGetXMLDesc(virDomainPtr dom, unsigned int flags);
int kumoDomainGetAutostart(virDomainPtr dom, int *autostart);
int kumoDomainSetAutostart(virDomainPtr dom, int autostart);
int kumoDomainGetAutostartOnce(virDomainPtr dom, int *autostart);
int kumoDomainSetAutostartOnce(virDomainPtr dom, int autostart);
int kumoDomainSetLifecycleAction(virDomainPtr dom, unsigned int type, unsigned int action,
                                 unsigned int flags);
int kumoDomainSetMetadata(virDomainPtr dom, int type, const char *metadata, const char *key,
                          const char *uri, unsigned int flags);
char *kumoDomainGetMetadata(virDomainPtr dom, int type, const char *uri, unsigned int flags);

/* kumo_driver_save.c */
int kumoDomainSave(virDomainPtr dom, const char *path);
int kumoDomainSaveFlags(virDomainPtr dom, const char *path, const char *dxml, unsigned int flags);
int kumoDomainSaveParams(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                         unsigned int flags);
int kumoDomainRestore(virConnectPtr conn, const char *path);
int kumoDomainRestoreFlags(virConnectPtr conn, const char *path, const char *dxml,
                           unsigned int flags);
int kumoDomainRestoreParams(virConnectPtr conn, virTypedParameterPtr params, int nparams,
                            unsigned int flags);
char *kumoDomainSaveImageGetXMLDesc(virConnectPtr conn, const char *path, unsigned int flags);
int kumoDomainSaveImageDefineXML(virConnectPtr conn, const char *path, const char *dxml,
                                 unsigned int flags);
int kumoDomainManagedSave(virDomainPtr dom, unsigned int flags);
int kumoDomainHasManagedSaveImage(virDomainPtr dom, unsigned int flags);
int kumoDomainManagedSaveRemove(virDomainPtr dom, unsigned int flags);
char *kumoDomainManagedSaveGetXMLDesc(virDomainPtr dom, unsigned int flags);
int kumoDomainManagedSaveDefineXML(virDomainPtr dom, const char *dxml, unsigned int flags);

/* kumo_driver_job.c */
int kumoDomainGetJobInfo(virDomainPtr dom, virDomainJobInfoPtr info);
int kumoDomainGetJobStats(virDomainPtr dom, int *type, virTypedParameterPtr *params, int *nparams,
                          unsigned int flags);
int kumoDomainAbortJob(virDomainPtr dom);
int kumoDomainAbortJobFlags(virDomainPtr dom, unsigned int flags);

/* kumo_driver_migration.c */
char *kumoDomainMigrateBegin3(virDomainPtr dom, const char *xmlin, char **cookieout,
                              int *cookieoutlen, unsigned long flags, const char *dname,
                              unsigned long resource);
char *kumoDomainMigrateBegin3Params(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                                    char **cookieout, int *cookieoutlen, unsigned int flags);
int kumoDomainMigratePrepare3(virConnectPtr conn, const char *cookiein, int cookieinlen,
                              char **cookieout, int *cookieoutlen, const char *uri_in,
                              char **uri_out, unsigned long flags, const char *dname,
                              unsigned long resource, const char *dom_xml);
int kumoDomainMigratePrepare3Params(virConnectPtr conn, virTypedParameterPtr params, int nparams,
                                    const char *cookiein, int cookieinlen, char **cookieout,
                                    int *cookieoutlen, char **uri_out, unsigned int flags);
int kumoDomainMigratePrepareTunnel3Params(virConnectPtr conn, virStreamPtr stream,
                                          virTypedParameterPtr params, int nparams,
                                          const char *cookiein, int cookieinlen, char **cookieout,
                                          int *cookieoutlen, unsigned int flags);
int kumoDomainMigratePerform3(virDomainPtr dom, const char *xmlin, const char *cookiein,
                              int cookieinlen, char **cookieout, int *cookieoutlen,
                              const char *dconnuri, const char *uri, unsigned long flags,
                              const char *dname, unsigned long resource);
int kumoDomainMigratePerform3Params(virDomainPtr dom, const char *dconnuri,
                                    virTypedParameterPtr params, int nparams, const char *cookiein,
                                    int cookieinlen, char **cookieout, int *cookieoutlen,
                                    unsigned int flags);
virDomainPtr kumoDomainMigrateFinish3(virConnectPtr conn, const char *dname, const char *cookiein,
                                      int cookieinlen, char **cookieout, int *cookieoutlen,
                                      const char *dconnuri, const char *uri, unsigned long flags,
                                      int cancelled);
virDomainPtr kumoDomainMigrateFinish3Params(virConnectPtr conn, virTypedParameterPtr params,
                                            int nparams, const char *cookiein, int cookieinlen,
                                            char **cookieout, int *cookieoutlen, unsigned int flags,
                                            int cancelled);
int kumoDomainMigrateConfirm3(virDomainPtr dom, const char *cookiein, int cookieinlen,
                              unsigned long flags, int cancelled);
int kumoDomainMigrateConfirm3Params(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                                    const char *cookiein, int cookieinlen, unsigned int flags,
                                    int cancelled);
int kumoDomainMigrateStartPostCopy(virDomainPtr dom, unsigned int flags);
int kumoDomainMigrateSetMaxDowntime(virDomainPtr dom, unsigned long long downtime,
                                    unsigned int flags);
int kumoDomainMigrateGetMaxDowntime(virDomainPtr dom, unsigned long long *downtime,
                                    unsigned int flags);
int kumoDomainMigrateSetMaxSpeed(virDomainPtr dom, unsigned long bandwidth, unsigned int flags);
int kumoDomainMigrateGetMaxSpeed(virDomainPtr dom, unsigned long *bandwidth, unsigned int flags);

/* kumo_driver_lifecycle.c */
virDomainPtr kumoDomainCreateXML(virConnectPtr conn, const char *xml, unsigned int flags);
int kumoDomainCreate(virDomainPtr dom);
int kumoDomainCreateWithFlags(virDomainPtr dom, unsigned int flags);
/* Starts @vm, which is locked, from its managed save image if it has one; for autostart, too. */
int kumoStartDefined(virConnectPtr conn, virDomainObj *vm, unsigned int flags);
int kumoDomainShutdown(virDomainPtr dom);
int kumoDomainShutdownFlags(virDomainPtr dom, unsigned int flags);
int kumoDomainReboot(virDomainPtr dom, unsigned int flags);
int kumoDomainReset(virDomainPtr dom, unsigned int flags);
int kumoDomainDestroy(virDomainPtr dom);
int kumoDomainDestroyFlags(virDomainPtr dom, unsigned int flags);
int kumoDomainSuspend(virDomainPtr dom);
int kumoDomainResume(virDomainPtr dom);

/* kumo_driver_query.c */
int kumoDomainGetInfo(virDomainPtr dom, virDomainInfoPtr info);
int kumoDomainGetState(virDomainPtr dom, int *state, int *reason, unsigned int flags);
int kumoDomainGetControlInfo(virDomainPtr dom, virDomainControlInfoPtr info, unsigned int flags);
char *kumoDomainGetOSType(virDomainPtr dom);
unsigned long long kumoDomainGetMaxMemory(virDomainPtr dom);
int kumoDomainGetVcpusFlags(virDomainPtr dom, unsigned int flags);
int kumoDomainGetMaxVcpus(virDomainPtr dom);
int kumoDomainGetVcpus(virDomainPtr dom, virVcpuInfoPtr info, int maxinfo, unsigned char *cpumaps,
                       int maplen);
int kumoDomainGetMessages(virDomainPtr dom, char ***msgs, unsigned int flags);
int kumoDomainGetSecurityLabel(virDomainPtr dom, virSecurityLabelPtr label);
int kumoDomainGetSecurityLabelList(virDomainPtr dom, virSecurityLabelPtr *labels);
int kumoDomainGetLaunchSecurityInfo(virDomainPtr dom, virTypedParameterPtr *params, int *nparams,
                                    unsigned int flags);

/* kumo_driver_device.c */
int kumoDomainAttachDevice(virDomainPtr dom, const char *xml);
int kumoDomainAttachDeviceFlags(virDomainPtr dom, const char *xml, unsigned int flags);
int kumoDomainDetachDevice(virDomainPtr dom, const char *xml);
int kumoDomainDetachDeviceFlags(virDomainPtr dom, const char *xml, unsigned int flags);
int kumoDomainDetachDeviceAlias(virDomainPtr dom, const char *alias, unsigned int flags);
int kumoDomainUpdateDeviceFlags(virDomainPtr dom, const char *xml, unsigned int flags);

/* kumo_driver_resize.c */
int kumoDomainSetVcpus(virDomainPtr dom, unsigned int vcpus);
int kumoDomainSetVcpu(virDomainPtr dom, const char *cpumap, int state, unsigned int flags);
int kumoDomainSetVcpusFlags(virDomainPtr dom, unsigned int vcpus, unsigned int flags);
int kumoDomainSetMemory(virDomainPtr dom, unsigned long kib);
int kumoDomainSetMemoryFlags(virDomainPtr dom, unsigned long kib, unsigned int flags);
int kumoDomainSetMaxMemory(virDomainPtr dom, unsigned long kib);
int kumoDomainBlockResize(virDomainPtr dom, const char *path, unsigned long long size,
                          unsigned int flags);

/* kumo_driver_tune.c */
int kumoDomainSetBlockIoTune(virDomainPtr dom, const char *path, virTypedParameterPtr params,
                             int nparams, unsigned int flags);
int kumoDomainSetBlockThreshold(virDomainPtr dom, const char *path, unsigned long long bytes,
                                unsigned int flags);
int kumoDomainGetBlockIoTune(virDomainPtr dom, const char *path, virTypedParameterPtr params,
                             int *nparams, unsigned int flags);
int kumoDomainSetInterfaceParameters(virDomainPtr dom, const char *device,
                                     virTypedParameterPtr params, int nparams, unsigned int flags);
int kumoDomainGetInterfaceParameters(virDomainPtr dom, const char *device,
                                     virTypedParameterPtr params, int *nparams, unsigned int flags);

/* kumo_driver_agent.c */
/* For what needs an agent in the guest: reports that there is none, or that there is no guest. */
int kumoReportNoAgent(virDomainObj *vm);
int kumoDomainSetGuestVcpus(virDomainPtr dom, const char *cpumap, int state, unsigned int flags);
int kumoDomainAuthorizedSSHKeysGet(virDomainPtr dom, const char *user, char ***keys,
                                   unsigned int flags);
int kumoDomainAuthorizedSSHKeysSet(virDomainPtr dom, const char *user, const char **keys,
                                   unsigned int nkeys, unsigned int flags);
int kumoDomainPMSuspendForDuration(virDomainPtr dom, unsigned int target,
                                   unsigned long long duration, unsigned int flags);
int kumoDomainAgentSetResponseTimeout(virDomainPtr dom, int timeout, unsigned int flags);
char *kumoDomainGetHostname(virDomainPtr dom, unsigned int flags);
int kumoDomainGetTime(virDomainPtr dom, long long *seconds, unsigned int *nseconds,
                      unsigned int flags);
int kumoDomainSetTime(virDomainPtr dom, long long seconds, unsigned int nseconds,
                      unsigned int flags);
int kumoDomainSetUserPassword(virDomainPtr dom, const char *user, const char *password,
                              unsigned int flags);
int kumoDomainFSFreeze(virDomainPtr dom, const char **mountpoints, unsigned int nmountpoints,
                       unsigned int flags);
int kumoDomainFSThaw(virDomainPtr dom, const char **mountpoints, unsigned int nmountpoints,
                     unsigned int flags);
int kumoDomainFSTrim(virDomainPtr dom, const char *mountpoint, unsigned long long minimum,
                     unsigned int flags);
int kumoDomainGetFSInfo(virDomainPtr dom, virDomainFSInfoPtr **info, unsigned int flags);
int kumoDomainGetGuestVcpus(virDomainPtr dom, virTypedParameterPtr *params, unsigned int *nparams,
                            unsigned int flags);
int kumoDomainGetGuestInfo(virDomainPtr dom, unsigned int types, virTypedParameterPtr *params,
                           int *nparams, unsigned int flags);

/* kumo_driver_sched.c */
char *kumoDomainGetSchedulerType(virDomainPtr dom, int *nparams);
int kumoDomainGetSchedulerParameters(virDomainPtr dom, virTypedParameterPtr params, int *nparams);
int kumoDomainGetSchedulerParametersFlags(virDomainPtr dom, virTypedParameterPtr params,
                                          int *nparams, unsigned int flags);
int kumoDomainSetSchedulerParameters(virDomainPtr dom, virTypedParameterPtr params, int nparams);
int kumoDomainSetSchedulerParametersFlags(virDomainPtr dom, virTypedParameterPtr params,
                                          int nparams, unsigned int flags);
int kumoDomainGetCPUStats(virDomainPtr dom, virTypedParameterPtr params, unsigned int nparams,
                          int start, unsigned int ncpus, unsigned int flags);

/* kumo_driver_cgroup.c */
int kumoDomainGetMemoryParameters(virDomainPtr dom, virTypedParameterPtr params, int *nparams,
                                  unsigned int flags);
int kumoDomainSetMemoryParameters(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                                  unsigned int flags);
int kumoDomainGetNumaParameters(virDomainPtr dom, virTypedParameterPtr params, int *nparams,
                                unsigned int flags);
int kumoDomainSetNumaParameters(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                                unsigned int flags);
int kumoDomainGetBlkioParameters(virDomainPtr dom, virTypedParameterPtr params, int *nparams,
                                 unsigned int flags);
int kumoDomainSetBlkioParameters(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                                 unsigned int flags);

/* kumo_driver_pin.c */
int kumoDomainPinVcpu(virDomainPtr dom, unsigned int vcpu, unsigned char *cpumap, int maplen);
int kumoDomainPinVcpuFlags(virDomainPtr dom, unsigned int vcpu, unsigned char *cpumap, int maplen,
                           unsigned int flags);
int kumoDomainGetVcpuPinInfo(virDomainPtr dom, int ncpumaps, unsigned char *cpumaps, int maplen,
                             unsigned int flags);
int kumoDomainPinEmulator(virDomainPtr dom, unsigned char *cpumap, int maplen, unsigned int flags);
int kumoDomainGetEmulatorPinInfo(virDomainPtr dom, unsigned char *cpumaps, int maplen,
                                 unsigned int flags);

/* kumo_driver_control.c */
int kumoDomainCoreDump(virDomainPtr dom, const char *path, unsigned int flags);
int kumoDomainMemoryPeek(virDomainPtr dom, unsigned long long start, size_t size, void *buffer,
                         unsigned int flags);
int kumoDomainCoreDumpWithFormat(virDomainPtr dom, const char *path, unsigned int format,
                                 unsigned int flags);
int kumoDomainInjectNMI(virDomainPtr dom, unsigned int flags);
int kumoDomainRename(virDomainPtr dom, const char *name, unsigned int flags);

/* kumo_driver_block.c */
int kumoDomainBlockPeek(virDomainPtr dom, const char *path, unsigned long long offset, size_t size,
                        void *buffer, unsigned int flags);
int kumoDomainGetDiskErrors(virDomainPtr dom, virDomainDiskErrorPtr errors, unsigned int nerrors,
                            unsigned int flags);
int kumoDomainGetBlockJobInfo(virDomainPtr dom, const char *path, virDomainBlockJobInfoPtr info,
                              unsigned int flags);
int kumoDomainBlockJobAbort(virDomainPtr dom, const char *path, unsigned int flags);
int kumoDomainBlockJobSetSpeed(virDomainPtr dom, const char *path, unsigned long bandwidth,
                               unsigned int flags);

/* kumo_driver_snapshot.c */
int kumoDomainSnapshotNum(virDomainPtr dom, unsigned int flags);
int kumoDomainSnapshotListNames(virDomainPtr dom, char **names, int nnames, unsigned int flags);
int kumoDomainListAllSnapshots(virDomainPtr dom, virDomainSnapshotPtr **snapshots,
                               unsigned int flags);
virDomainSnapshotPtr kumoDomainSnapshotLookupByName(virDomainPtr dom, const char *name,
                                                    unsigned int flags);
int kumoDomainHasCurrentSnapshot(virDomainPtr dom, unsigned int flags);
virDomainSnapshotPtr kumoDomainSnapshotCurrent(virDomainPtr dom, unsigned int flags);
int kumoDomainListAllCheckpoints(virDomainPtr dom, virDomainCheckpointPtr **checkpoints,
                                 unsigned int flags);
virDomainCheckpointPtr kumoDomainCheckpointLookupByName(virDomainPtr dom, const char *name,
                                                        unsigned int flags);

/* kumo_driver_iothread.c */
int kumoDomainGetIOThreadInfo(virDomainPtr dom, virDomainIOThreadInfoPtr **info,
                              unsigned int flags);
int kumoDomainPinIOThread(virDomainPtr dom, unsigned int id, unsigned char *cpumap, int maplen,
                          unsigned int flags);
int kumoDomainAddIOThread(virDomainPtr dom, unsigned int id, unsigned int flags);
int kumoDomainDelIOThread(virDomainPtr dom, unsigned int id, unsigned int flags);
int kumoDomainSetIOThreadParams(virDomainPtr dom, unsigned int id, virTypedParameterPtr params,
                                int nparams, unsigned int flags);

/* kumo_driver_cpu.c */
int kumoConnectGetCPUModelNames(virConnectPtr conn, const char *arch, char ***models,
                                unsigned int flags);
int kumoConnectCompareCPU(virConnectPtr conn, const char *xml, unsigned int flags);
int kumoConnectCompareHypervisorCPU(virConnectPtr conn, const char *emulator, const char *arch,
                                    const char *machine, const char *virttype, const char *xml,
                                    unsigned int flags);
char *kumoConnectBaselineCPU(virConnectPtr conn, const char **xmls, unsigned int n,
                             unsigned int flags);
char *kumoConnectBaselineHypervisorCPU(virConnectPtr conn, const char *emulator, const char *arch,
                                       const char *machine, const char *virttype, const char **xmls,
                                       unsigned int n, unsigned int flags);

/* kumo_driver_native.c */
char *kumoConnectDomainXMLFromNative(virConnectPtr conn, const char *format, const char *text,
                                     unsigned int flags);
char *kumoConnectDomainXMLToNative(virConnectPtr conn, const char *format, const char *xml,
                                   unsigned int flags);

/* kumo_driver_stats.c */
int kumoDomainBlockStats(virDomainPtr dom, const char *path, virDomainBlockStatsPtr stats);
int kumoDomainBlockStatsFlags(virDomainPtr dom, const char *path, virTypedParameterPtr params,
                              int *nparams, unsigned int flags);
int kumoDomainGetBlockInfo(virDomainPtr dom, const char *path, virDomainBlockInfoPtr info,
                           unsigned int flags);
int kumoDomainInterfaceStats(virDomainPtr dom, const char *device,
                             virDomainInterfaceStatsPtr stats);
int kumoDomainInterfaceAddresses(virDomainPtr dom, virDomainInterfacePtr **ifaces,
                                 unsigned int source, unsigned int flags);
int kumoDomainMemoryStats(virDomainPtr dom, virDomainMemoryStatPtr stats, unsigned int nstats,
                          unsigned int flags);
int kumoDomainSetMemoryStatsPeriod(virDomainPtr dom, int period, unsigned int flags);

/* kumo_driver_domstats.c */
int kumoConnectGetAllDomainStats(virConnectPtr conn, virDomainPtr *doms, unsigned int ndoms,
                                 unsigned int stats, virDomainStatsRecordPtr **retStats,
                                 unsigned int flags);

/* kumo_driver_perf.c */
int kumoDomainSetPerfEvents(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                            unsigned int flags);
int kumoDomainGetPerfEvents(virDomainPtr dom, virTypedParameterPtr *params, int *nparams,
                            unsigned int flags);

/* kumo_driver_console.c */
int kumoDomainOpenConsole(virDomainPtr dom, const char *name, virStreamPtr stream,
                          unsigned int flags);

/* kumo_driver_event.c */
int kumoConnectDomainEventRegister(virConnectPtr conn, virConnectDomainEventCallback callback,
                                   void *opaque, virFreeCallback freecb);
int kumoConnectDomainEventDeregister(virConnectPtr conn, virConnectDomainEventCallback callback);
int kumoConnectDomainEventRegisterAny(virConnectPtr conn, virDomainPtr dom, int eventID,
                                      virConnectDomainEventGenericCallback callback, void *opaque,
                                      virFreeCallback freecb);
int kumoConnectDomainEventDeregisterAny(virConnectPtr conn, int callbackID);
