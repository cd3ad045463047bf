/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tables that make the module a libvirt driver, and its registration. */
#include "driver/kumo_driver.h"

#include <libintl.h>

#include "kumo-build.h"

static virHypervisorDriver kumoHypervisorDriver = {
    .name = KUMO_DRIVER_NAME,

    .connectURIProbe = kumoConnectURIProbe,
    .connectOpen = kumoConnectOpen,
    .connectClose = kumoConnectClose,
    .connectSupportsFeature = kumoConnectSupportsFeature,
    .connectGetType = kumoConnectGetType,
    .connectGetVersion = kumoConnectGetVersion,
    .connectGetHostname = kumoConnectGetHostname,
    .connectGetSysinfo = kumoConnectGetSysinfo,
    .connectGetMaxVcpus = kumoConnectGetMaxVcpus,
    .connectGetCapabilities = kumoConnectGetCapabilities,
    .connectGetDomainCapabilities = kumoConnectGetDomainCapabilities,
    .connectIsEncrypted = kumoConnectIsEncrypted,
    .connectIsSecure = kumoConnectIsSecure,
    .connectIsAlive = kumoConnectIsAlive,

    .nodeGetInfo = kumoNodeGetInfo,
    .nodeGetCPUMap = kumoNodeGetCPUMap,
    .nodeGetCPUStats = kumoNodeGetCPUStats,
    .nodeGetMemoryStats = kumoNodeGetMemoryStats,
    .nodeGetCellsFreeMemory = kumoNodeGetCellsFreeMemory,
    .nodeGetFreeMemory = kumoNodeGetFreeMemory,
    .nodeGetFreePages = kumoNodeGetFreePages,
    .nodeAllocPages = kumoNodeAllocPages,
    .nodeGetMemoryParameters = kumoNodeGetMemoryParameters,
    .nodeSetMemoryParameters = kumoNodeSetMemoryParameters,
    .nodeGetSecurityModel = kumoNodeGetSecurityModel,
    .nodeSuspendForDuration = kumoNodeSuspendForDuration,

    .nodeDeviceDettach = kumoNodeDeviceDettach,
    .nodeDeviceDetachFlags = kumoNodeDeviceDetachFlags,
    .nodeDeviceReAttach = kumoNodeDeviceReAttach,
    .nodeDeviceReset = kumoNodeDeviceReset,

    .connectListDomains = kumoConnectListDomains,
    .connectNumOfDomains = kumoConnectNumOfDomains,
    .connectListDefinedDomains = kumoConnectListDefinedDomains,
    .connectNumOfDefinedDomains = kumoConnectNumOfDefinedDomains,
    .connectListAllDomains = kumoConnectListAllDomains,
    .domainLookupByID = kumoDomainLookupByID,
    .domainLookupByUUID = kumoDomainLookupByUUID,
    .domainLookupByName = kumoDomainLookupByName,
    .domainIsActive = kumoDomainIsActive,
    .domainIsPersistent = kumoDomainIsPersistent,
    .domainIsUpdated = kumoDomainIsUpdated,

    .domainDefineXML = kumoDomainDefineXML,
    .domainDefineXMLFlags = kumoDomainDefineXMLFlags,
    .domainUndefine = kumoDomainUndefine,
    .domainUndefineFlags = kumoDomainUndefineFlags,
    .domainGetXMLDesc = kumoDomainGetXMLDesc,
    .domainGetAutostart = kumoDomainGetAutostart,
    .domainSetAutostart = kumoDomainSetAutostart,
#if KUMO_LIBVIRT_11_3
    .domainGetAutostartOnce = kumoDomainGetAutostartOnce,
    .domainSetAutostartOnce = kumoDomainSetAutostartOnce,
#endif
    .domainSetLifecycleAction = kumoDomainSetLifecycleAction,
    .domainSetMetadata = kumoDomainSetMetadata,
    .domainGetMetadata = kumoDomainGetMetadata,

    .domainSnapshotNum = kumoDomainSnapshotNum,
    .domainSnapshotListNames = kumoDomainSnapshotListNames,
    .domainListAllSnapshots = kumoDomainListAllSnapshots,
    .domainSnapshotLookupByName = kumoDomainSnapshotLookupByName,
    .domainHasCurrentSnapshot = kumoDomainHasCurrentSnapshot,
    .domainSnapshotCurrent = kumoDomainSnapshotCurrent,
    .domainListAllCheckpoints = kumoDomainListAllCheckpoints,
    .domainCheckpointLookupByName = kumoDomainCheckpointLookupByName,

    .domainSave = kumoDomainSave,
    .domainSaveFlags = kumoDomainSaveFlags,
    .domainSaveParams = kumoDomainSaveParams,
    .domainRestore = kumoDomainRestore,
    .domainRestoreFlags = kumoDomainRestoreFlags,
    .domainRestoreParams = kumoDomainRestoreParams,
    .domainSaveImageGetXMLDesc = kumoDomainSaveImageGetXMLDesc,
    .domainSaveImageDefineXML = kumoDomainSaveImageDefineXML,
    .domainManagedSave = kumoDomainManagedSave,
    .domainHasManagedSaveImage = kumoDomainHasManagedSaveImage,
    .domainManagedSaveRemove = kumoDomainManagedSaveRemove,
    .domainManagedSaveGetXMLDesc = kumoDomainManagedSaveGetXMLDesc,
    .domainManagedSaveDefineXML = kumoDomainManagedSaveDefineXML,

    .domainGetJobInfo = kumoDomainGetJobInfo,
    .domainGetJobStats = kumoDomainGetJobStats,
    .domainAbortJob = kumoDomainAbortJob,
    .domainAbortJobFlags = kumoDomainAbortJobFlags,

    .domainMigrateBegin3 = kumoDomainMigrateBegin3,
    .domainMigrateBegin3Params = kumoDomainMigrateBegin3Params,
    .domainMigratePrepare3 = kumoDomainMigratePrepare3,
    .domainMigratePrepare3Params = kumoDomainMigratePrepare3Params,
    .domainMigratePrepareTunnel3Params = kumoDomainMigratePrepareTunnel3Params,
    .domainMigratePerform3 = kumoDomainMigratePerform3,
    .domainMigratePerform3Params = kumoDomainMigratePerform3Params,
    .domainMigrateFinish3 = kumoDomainMigrateFinish3,
    .domainMigrateFinish3Params = kumoDomainMigrateFinish3Params,
    .domainMigrateConfirm3 = kumoDomainMigrateConfirm3,
    .domainMigrateConfirm3Params = kumoDomainMigrateConfirm3Params,
    .domainMigrateStartPostCopy = kumoDomainMigrateStartPostCopy,
    .domainMigrateSetMaxDowntime = kumoDomainMigrateSetMaxDowntime,
    .domainMigrateGetMaxDowntime = kumoDomainMigrateGetMaxDowntime,
    .domainMigrateSetMaxSpeed = kumoDomainMigrateSetMaxSpeed,
    .domainMigrateGetMaxSpeed = kumoDomainMigrateGetMaxSpeed,

    .domainCreateXML = kumoDomainCreateXML,
    .domainCreate = kumoDomainCreate,
    .domainCreateWithFlags = kumoDomainCreateWithFlags,
    .domainShutdown = kumoDomainShutdown,
    .domainShutdownFlags = kumoDomainShutdownFlags,
    .domainReboot = kumoDomainReboot,
    .domainReset = kumoDomainReset,
    .domainDestroy = kumoDomainDestroy,
    .domainDestroyFlags = kumoDomainDestroyFlags,
    .domainSuspend = kumoDomainSuspend,
    .domainResume = kumoDomainResume,

    .domainGetInfo = kumoDomainGetInfo,
    .domainGetState = kumoDomainGetState,
    .domainGetControlInfo = kumoDomainGetControlInfo,
    .domainGetOSType = kumoDomainGetOSType,
    .domainGetMaxMemory = kumoDomainGetMaxMemory,
    .domainGetVcpusFlags = kumoDomainGetVcpusFlags,
    .domainGetMaxVcpus = kumoDomainGetMaxVcpus,
    .domainGetVcpus = kumoDomainGetVcpus,
    .domainGetMessages = kumoDomainGetMessages,
    .domainGetSecurityLabel = kumoDomainGetSecurityLabel,
    .domainGetSecurityLabelList = kumoDomainGetSecurityLabelList,
    .domainGetLaunchSecurityInfo = kumoDomainGetLaunchSecurityInfo,

    .domainAttachDevice = kumoDomainAttachDevice,
    .domainAttachDeviceFlags = kumoDomainAttachDeviceFlags,
    .domainDetachDevice = kumoDomainDetachDevice,
    .domainDetachDeviceFlags = kumoDomainDetachDeviceFlags,
    .domainDetachDeviceAlias = kumoDomainDetachDeviceAlias,
    .domainUpdateDeviceFlags = kumoDomainUpdateDeviceFlags,

    .domainSetVcpus = kumoDomainSetVcpus,
    .domainSetVcpusFlags = kumoDomainSetVcpusFlags,
    .domainSetVcpu = kumoDomainSetVcpu,
    .domainSetMemory = kumoDomainSetMemory,
    .domainSetMemoryFlags = kumoDomainSetMemoryFlags,
    .domainSetMaxMemory = kumoDomainSetMaxMemory,
    .domainBlockResize = kumoDomainBlockResize,

    .connectDomainXMLFromNative = kumoConnectDomainXMLFromNative,
    .connectDomainXMLToNative = kumoConnectDomainXMLToNative,

    .domainSetBlockIoTune = kumoDomainSetBlockIoTune,
    .domainGetBlockIoTune = kumoDomainGetBlockIoTune,
    .domainSetBlockThreshold = kumoDomainSetBlockThreshold,
    .domainSetInterfaceParameters = kumoDomainSetInterfaceParameters,
    .domainGetInterfaceParameters = kumoDomainGetInterfaceParameters,

    .domainGetSchedulerType = kumoDomainGetSchedulerType,
    .domainGetSchedulerParameters = kumoDomainGetSchedulerParameters,
    .domainGetSchedulerParametersFlags = kumoDomainGetSchedulerParametersFlags,
    .domainSetSchedulerParameters = kumoDomainSetSchedulerParameters,
    .domainSetSchedulerParametersFlags = kumoDomainSetSchedulerParametersFlags,
    .domainGetCPUStats = kumoDomainGetCPUStats,
    .domainGetMemoryParameters = kumoDomainGetMemoryParameters,
    .domainSetMemoryParameters = kumoDomainSetMemoryParameters,
    .domainGetNumaParameters = kumoDomainGetNumaParameters,
    .domainSetNumaParameters = kumoDomainSetNumaParameters,
    .domainGetBlkioParameters = kumoDomainGetBlkioParameters,
    .domainSetBlkioParameters = kumoDomainSetBlkioParameters,

    .domainPinVcpu = kumoDomainPinVcpu,
    .domainPinVcpuFlags = kumoDomainPinVcpuFlags,
    .domainGetVcpuPinInfo = kumoDomainGetVcpuPinInfo,
    .domainPinEmulator = kumoDomainPinEmulator,
    .domainGetEmulatorPinInfo = kumoDomainGetEmulatorPinInfo,
    .domainGetIOThreadInfo = kumoDomainGetIOThreadInfo,
    .domainPinIOThread = kumoDomainPinIOThread,
    .domainAddIOThread = kumoDomainAddIOThread,
    .domainDelIOThread = kumoDomainDelIOThread,
    .domainSetIOThreadParams = kumoDomainSetIOThreadParams,

    .domainCoreDump = kumoDomainCoreDump,
    .domainCoreDumpWithFormat = kumoDomainCoreDumpWithFormat,
    .domainMemoryPeek = kumoDomainMemoryPeek,
    .domainInjectNMI = kumoDomainInjectNMI,
    .domainRename = kumoDomainRename,

    .connectGetCPUModelNames = kumoConnectGetCPUModelNames,
    .connectCompareCPU = kumoConnectCompareCPU,
    .connectCompareHypervisorCPU = kumoConnectCompareHypervisorCPU,
    .connectBaselineCPU = kumoConnectBaselineCPU,
    .connectBaselineHypervisorCPU = kumoConnectBaselineHypervisorCPU,

    .domainBlockStats = kumoDomainBlockStats,
    .domainBlockStatsFlags = kumoDomainBlockStatsFlags,
    .domainGetBlockInfo = kumoDomainGetBlockInfo,
    .domainBlockPeek = kumoDomainBlockPeek,
    .domainGetDiskErrors = kumoDomainGetDiskErrors,
    .domainGetBlockJobInfo = kumoDomainGetBlockJobInfo,
    .domainBlockJobAbort = kumoDomainBlockJobAbort,
    .domainBlockJobSetSpeed = kumoDomainBlockJobSetSpeed,
    .domainInterfaceStats = kumoDomainInterfaceStats,
    .domainInterfaceAddresses = kumoDomainInterfaceAddresses,
    .domainMemoryStats = kumoDomainMemoryStats,
    .domainSetMemoryStatsPeriod = kumoDomainSetMemoryStatsPeriod,
    .domainSetPerfEvents = kumoDomainSetPerfEvents,
    .domainGetPerfEvents = kumoDomainGetPerfEvents,
    .connectGetAllDomainStats = kumoConnectGetAllDomainStats,

    .domainAgentSetResponseTimeout = kumoDomainAgentSetResponseTimeout,
    .domainGetHostname = kumoDomainGetHostname,
    .domainGetTime = kumoDomainGetTime,
    .domainSetTime = kumoDomainSetTime,
    .domainSetUserPassword = kumoDomainSetUserPassword,
    .domainFSFreeze = kumoDomainFSFreeze,
    .domainFSThaw = kumoDomainFSThaw,
    .domainFSTrim = kumoDomainFSTrim,
    .domainGetFSInfo = kumoDomainGetFSInfo,
    .domainGetGuestVcpus = kumoDomainGetGuestVcpus,
    .domainSetGuestVcpus = kumoDomainSetGuestVcpus,
    .domainGetGuestInfo = kumoDomainGetGuestInfo,
    .domainAuthorizedSSHKeysGet = kumoDomainAuthorizedSSHKeysGet,
    .domainAuthorizedSSHKeysSet = kumoDomainAuthorizedSSHKeysSet,
    .domainPMSuspendForDuration = kumoDomainPMSuspendForDuration,

    .domainOpenConsole = kumoDomainOpenConsole,

    .connectDomainEventRegister = kumoConnectDomainEventRegister,
    .connectDomainEventDeregister = kumoConnectDomainEventDeregister,
    .connectDomainEventRegisterAny = kumoConnectDomainEventRegisterAny,
    .connectDomainEventDeregisterAny = kumoConnectDomainEventDeregisterAny,
};

static virConnectDriver kumoConnectDriver = {
    .localOnly = true,
    .uriSchemes = (const char *[]){ "kumo", NULL },
    .embeddable = true,
    .hypervisorDriver = &kumoHypervisorDriver,
};

static virStateDriver kumoStateDriver = {
    .name = KUMO_DRIVER_NAME,
    .stateInitialize = kumoStateInitialize,
    .stateCleanup = kumoStateCleanup,
    .stateReload = kumoStateReload,
};

/* The one symbol that libvirt looks for in the module. */
int kumoRegister(void);

int kumoRegister(void)
{
    bindtextdomain(KUMO_GETTEXT_DOMAIN, KUMO_LOCALEDIR);
    if (virRegisterConnectDriver(&kumoConnectDriver, true) < 0)
        return -1;
    if (virRegisterStateDriver(&kumoStateDriver) < 0)
        return -1;
    return 0;
}
