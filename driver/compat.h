/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvirt's private interface, as far as it differs between the versions that the driver is built
 * for. Every source file of driver/ and domain-xml/ includes this one first: it brings libvirt's
 * own configuration and the translation macro of our message domain.
 */
#pragma once

#include <config.h>

#include "internal.h"
#include "virerror.h"
#include "virlog.h"

/* libvirt's internal.h binds _() to its own message catalogue; ours is a separate one. */
#undef _
#undef N_
#define KUMO_GETTEXT_DOMAIN "kumo"
#define _(str)              dgettext(KUMO_GETTEXT_DOMAIN, str)
#define N_(str)             str

#if LIBVIR_VERSION_NUMBER >= 11003000
#define KUMO_LIBVIRT_11_3 1
#else
#define KUMO_LIBVIRT_11_3 0
#endif

/* What libvirt adds to the name of an autostart link that holds for the next boot alone. */
#define KUMO_AUTOSTART_ONCE ".once"

/* Calls whose prototypes changed. The left side is what the driver writes. */
#if KUMO_LIBVIRT_11_3
#define kumoCompatDomainSupported(caps, ostype, arch, virttype)                                    \
    virCapabilitiesDomainSupported((caps), (ostype), (arch), (virttype), true)
#define kumoCompatPidFileAcquire(dir, name, pid)   virPidFileAcquire((dir), (name), (pid))
#define kumoCompatNetReleaseActual(conn, def, net) virDomainNetReleaseActualDevice((conn), (net))
#define kumoCompatCpuModelsAdd(models, name, usable, vendor)                                       \
    virDomainCapsCPUModelsAdd((models), (name), (usable), NULL, false, (vendor), NULL)
#define kumoCompatVirtioMem(mem)       (&(mem)->target.virtio_mem)
#define kumoCompatVirtioMemPlaced(mem) ((mem)->target.virtio_mem.address)
#define kumoCompatVirtioMemDynamic(mem)                                                            \
    ((mem)->target.virtio_mem.dynamicMemslots == VIR_TRISTATE_BOOL_YES)
#define kumoCompatMemorySourceGiven(mem)                                                           \
    ((mem)->model == VIR_DOMAIN_MEMORY_MODEL_DIMM                                                  \
         ? (mem)->source.dimm.nodes || (mem)->source.dimm.pagesize                                 \
         : (mem)->model == VIR_DOMAIN_MEMORY_MODEL_VIRTIO_MEM &&                                   \
               ((mem)->source.virtio_mem.nodes || (mem)->source.virtio_mem.pagesize))
#define kumoCompatSetAllLabel(mgr, def, std, chardev, migrated)                                    \
    virSecurityManagerSetAllLabel((mgr), NULL, (def), (std), (chardev), (migrated))
#define kumoCompatRestoreAllLabel(mgr, def, migrated, chardev)                                     \
    virSecurityManagerRestoreAllLabel((mgr), NULL, (def), (migrated), (chardev))
#define kumoCompatNetBandwidthSet(net, bandwidth)                                                  \
    virNetDevBandwidthSet(                                                                         \
        (net)->ifname, (bandwidth),                                                                \
        VIR_NETDEV_BANDWIDTH_SET_CLEAR_ALL |                                                       \
            (virDomainNetTypeSharesHostView(net) ? 0 : VIR_NETDEV_BANDWIDTH_SET_DIR_SWAPPED))
#define kumoCompatMaybeAddController(def, type, idx, model)                                        \
    (virDomainDefMaybeAddController((def), (type), (idx), (model)), 0)
#define kumoCompatSetChildLabel(mgr, def, cmd)                                                     \
    virSecurityManagerSetChildProcessLabel((mgr), (def), false, (cmd))
#define kumoCompatSetImageLabel(mgr, def, src, flags)                                              \
    virSecurityManagerSetImageLabel((mgr), NULL, (def), (src), (flags))
#define kumoCompatRestoreImageLabel(mgr, def, src, flags)                                          \
    virSecurityManagerRestoreImageLabel((mgr), NULL, (def), (src), (flags))
#define kumoCompatAddInt(list, ...)    virTypedParamListAddInt((list), __VA_ARGS__)
#define kumoCompatAddUInt(list, ...)   virTypedParamListAddUInt((list), __VA_ARGS__)
#define kumoCompatAddULLong(list, ...) virTypedParamListAddULLong((list), __VA_ARGS__)
#define kumoCompatAddString(list, ...) virTypedParamListAddString((list), __VA_ARGS__)
#define kumoCompatAddBool(list, ...)   virTypedParamListAddBoolean((list), __VA_ARGS__)
#define kumoCompatParamListNew()       virTypedParamListNew()
#define kumoCompatTakeParams(list, params, nparams)                                                \
    virTypedParamListSteal((list), (params), (nparams))
#define kumoCompatStealParams(list, record)                                                        \
    ignore_value(virTypedParamListSteal((list), &(record)->params, &(record)->nparams))
typedef unsigned long long kumoCompatRss;
#define kumoCompatNetInsert(def, net)          (virDomainNetInsert((def), (net)), 0)
#define kumoCompatNetUpdate(def, idx, net)     (virDomainNetUpdate((def), (idx), (net)), 0)
#define kumoCompatFetchParams(params, list, n) virTypedParamListFetch((params), (list), (n))
#define kumoCompatGetMessages(vm, msgs, flags)                                                     \
    ({                                                                                             \
        g_autoptr(GPtrArray) list_ = g_ptr_array_new_with_free_func(g_free);                       \
        int n_;                                                                                    \
                                                                                                   \
        virDomainObjGetMessages((vm), list_, (flags));                                             \
        n_ = (int)list_->len;                                                                      \
        if (n_ > 0)                                                                                \
            g_ptr_array_add(list_, NULL);                                                          \
        *(msgs) = n_ > 0 ? (char **)g_ptr_array_steal(list_, NULL) : NULL;                         \
        n_;                                                                                        \
    })
#define kumoCompatAutostartOnce(vm)        ((vm)->autostartOnce)
#define kumoCompatHasAcpiTables(os)        ((os)->nacpiTables > 0)
#define kumoCompatHasShim(os)              ((os)->shim != NULL)
#define kumoCompatHasThrottleGroups(def)   ((def)->nthrottlegroups > 0)
#define kumoCompatHasThrottleFilters(disk) ((disk)->nthrottlefilters > 0)
#define kumoCompatHasIOThreads(disk)       ((disk)->iothreads != NULL)
#define kumoCompatIsSharedFS(path)         virFileIsSharedFS((path), NULL)
#define kumoCompatCpuUpdate(arch, cpu, base)                                                       \
    virCPUUpdate((arch), (cpu), (base), VIR_CPU_FEATURE_DISABLE)
#define kumoCompatCpuUpdateFeature(cpu, name, policy)                                              \
    (virCPUDefUpdateFeature((cpu), (name), (policy)), 0)
#define kumoCompatCpuAddFeature(cpu, name, policy)                                                 \
    (virCPUDefAddFeatureIfMissing((cpu), (name), (policy)), 0)
#define KUMO_MESSAGE_IOERRORS      VIR_DOMAIN_MESSAGE_IOERRORS
#define KUMO_BLOCK_RESIZE_CAPACITY VIR_DOMAIN_BLOCK_RESIZE_CAPACITY
#define KUMO_CAPABILITIES_WITHOUT_DEPRECATED                                                       \
    VIR_CONNECT_GET_DOMAIN_CAPABILITIES_DISABLE_DEPRECATED_FEATURES
/* What virDomainGetMessages tells of an image, until the domain ends. */
#define kumoCompatNoteIOError(src, reason)                                                         \
    (g_free((src)->ioerror_timestamp), g_free((src)->ioerror_message),                             \
     (src)->ioerror_timestamp = virTimeStringNow(), (src)->ioerror_message = g_strdup(reason))
#define kumoCompatIOThreadPolls(thread)                                                            \
    ((thread)->set_poll_max_ns || (thread)->set_poll_grow || (thread)->set_poll_shrink)
/* Any driver may be a variant of vfio-pci; that one is not shows when it has been bound. */
#define kumoCompatDetachDriverKnown(name) ((void)(name), true)
#define kumoCompatNodeDeviceDetach(dev, manager, name)                                             \
    virDomainDriverNodeDeviceDetachFlags((dev), (manager), VIR_PCI_STUB_DRIVER_VFIO,               \
                                         STREQ_NULLABLE((name), "vfio") ? NULL : (name))
#else
#define kumoCompatCpuModelsAdd(models, name, usable, vendor)                                       \
    virDomainCapsCPUModelsAdd((models), (name), (usable), NULL, false, (vendor))
#define kumoCompatVirtioMem(mem)         (mem)
#define kumoCompatVirtioMemPlaced(mem)   false
#define kumoCompatVirtioMemDynamic(mem)  false
#define kumoCompatMemorySourceGiven(mem) ((mem)->sourceNodes || (mem)->pagesize)
#define kumoCompatDomainSupported(caps, ostype, arch, virttype)                                    \
    virCapabilitiesDomainSupported((caps), (ostype), (arch), (virttype))
#define kumoCompatPidFileAcquire(dir, name, pid) virPidFileAcquire((dir), (name), false, (pid))
#define kumoCompatNetReleaseActual(conn, def, net)                                                 \
    virDomainNetReleaseActualDevice((conn), (def), (net))
#define kumoCompatSetAllLabel(mgr, def, std, chardev, migrated)                                    \
    virSecurityManagerSetAllLabel((mgr), (def), (std), (chardev), (migrated))
#define kumoCompatRestoreAllLabel(mgr, def, migrated, chardev)                                     \
    virSecurityManagerRestoreAllLabel((mgr), (def), (migrated), (chardev))
#define kumoCompatNetBandwidthSet(net, bandwidth)                                                  \
    virNetDevBandwidthSet((net)->ifname, (bandwidth), false, !virDomainNetTypeSharesHostView(net))
#define kumoCompatMaybeAddController(def, type, idx, model)                                        \
    virDomainDefMaybeAddController((def), (type), (idx), (model))
#define kumoCompatGetMessages(vm, msgs, flags) virDomainObjGetMessages((vm), (msgs), (flags))
#define kumoCompatSetChildLabel(mgr, def, cmd)                                                     \
    virSecurityManagerSetChildProcessLabel((mgr), (def), (cmd))
#define kumoCompatSetImageLabel(mgr, def, src, flags)                                              \
    virSecurityManagerSetImageLabel((mgr), (def), (src), (flags))
#define kumoCompatRestoreImageLabel(mgr, def, src, flags)                                          \
    virSecurityManagerRestoreImageLabel((mgr), (def), (src), (flags))
#define kumoCompatAddInt(list, ...)    ignore_value(virTypedParamListAddInt((list), __VA_ARGS__))
#define kumoCompatAddUInt(list, ...)   ignore_value(virTypedParamListAddUInt((list), __VA_ARGS__))
#define kumoCompatAddULLong(list, ...) ignore_value(virTypedParamListAddULLong((list), __VA_ARGS__))
#define kumoCompatAddString(list, ...) ignore_value(virTypedParamListAddString((list), __VA_ARGS__))
#define kumoCompatAddBool(list, ...)   ignore_value(virTypedParamListAddBoolean((list), __VA_ARGS__))
#define kumoCompatParamListNew()       g_new0(virTypedParamList, 1)
#define kumoCompatTakeParams(list, params, nparams)                                                \
    (*(nparams) = (int)virTypedParamListStealParams((list), (params)), 0)
#define kumoCompatStealParams(list, record)                                                        \
    ((record)->nparams = (int)virTypedParamListStealParams((list), &(record)->params))
typedef long kumoCompatRss;
#define kumoCompatNetInsert(def, net)          virDomainNetInsert((def), (net))
#define kumoCompatNetUpdate(def, idx, net)     virDomainNetUpdate((def), (idx), (net))
#define kumoCompatFetchParams(params, list, n) (*(list) = (params)->par, *(n) = (params)->npar, 0)
#define kumoCompatAutostartOnce(vm)            false
#define kumoCompatHasAcpiTables(os)            ((os)->slic_table != NULL)
#define kumoCompatHasShim(os)                  false
#define kumoCompatHasThrottleGroups(def)       false
#define kumoCompatHasThrottleFilters(disk)     false
#define kumoCompatHasIOThreads(disk)           false
#define kumoCompatIsSharedFS(path)             virFileIsSharedFS(path)
#define kumoCompatCpuUpdate(arch, cpu, base)   virCPUUpdate((arch), (cpu), (base))
#define kumoCompatCpuUpdateFeature(cpu, name, policy)                                              \
    virCPUDefUpdateFeature((cpu), (name), (policy))
#define kumoCompatCpuAddFeature(cpu, name, policy)                                                 \
    virCPUDefAddFeatureIfMissing((cpu), (name), (policy))
#define KUMO_MESSAGE_IOERRORS                0
#define KUMO_BLOCK_RESIZE_CAPACITY           0
#define KUMO_CAPABILITIES_WITHOUT_DEPRECATED 0
#define kumoCompatNoteIOError(src, reason)   ((void)(src))
#define kumoCompatIOThreadPolls(thread)      false
#define kumoCompatDetachDriverKnown(name)    (!(name) || STREQ((name), "vfio"))
#define kumoCompatNodeDeviceDetach(dev, manager, name)                                             \
    virDomainDriverNodeDeviceDetachFlags((dev), (manager), (name) ? (name) : "vfio")
#endif
