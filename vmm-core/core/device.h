/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a device. Making one cannot fail and touches nothing outside it; realize takes
 * descriptors, addresses and threads and can fail, leaving nothing behind; unrealize gives back in
 * reverse order.
 *
 * A device embeds KumoDevice as its first member. All operations run on the main thread; those
 * marked NULL may be left out.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>

#include "vmm-core/acpi/aml.h"
#include "vmm-core/base/rate_limiter.h"
#include "vmm-core/core/machine.h"
#include "vmm-core/core/state.h"

/*
 * What of a device goes into a snapshot: a plain structure, described by a table. Main thread, the
 * device is paused. Neither hook touches guest memory or interrupts the guest; what the state makes
 * due happens at resume.
 */
typedef struct {
    const KumoStateTable *table;
    /* Fills @state, which is zeroed and the caller's to clear. */
    void (*save)(KumoDevice *device, void *state);
    /* Of a device that no guest has touched. FALSE with @error names the field that does not fit
     * this device. */
    bool (*load)(KumoDevice *device, const void *state, GError **error);
} KumoDeviceState;

typedef struct {
    const char *type; /* for messages: "virtio-blk", "serial" */
    bool (*realize)(KumoDevice *device, GError **error);
    void (*unrealize)(KumoDevice *device);
    void (*free)(KumoDevice *device); /* of a device that is not realized; core has freed its id */
    /* NULL. Pause returns when the device will not touch guest memory or send interrupts until
     * resume. */
    bool (*pause)(KumoDevice *device, GError **error);
    void (*resume)(KumoDevice *device);
    /* NULL. Adds the device's ACPI objects to the scope \_SB_. */
    void (*aml)(KumoDevice *device, KumoAml *aml);
    /* NULL. Returns: (transfer full): {"read_bytes": 1, ...} for vm.counters. */
    json_t *(*counters)(KumoDevice *device);
    /* NULL. Fills in what the device decided itself: the path of a pty, a MAC. @config is the VM's
     * own copy. */
    void (*report)(KumoDevice *device, KumoVmConfig *config);
    /* NULL. Returns: (transfer full): "0000:00:03.0", of a PCI device. */
    char *(*pci_bdf)(KumoDevice *device);
    /* NULL. Adds to @node, the device's own in @tree as vm.info has it, what it takes of the
     * machine, and to @tree the nodes that stand between it and the machine. */
    void (*describe)(KumoDevice *device, json_t *tree, json_t *node);
    /* NULL, both or none: the device may come and go while the guest runs. announce tells the guest
     * that it is there; ask_removal, as often as wanted, that it is to be let go, and fails if the
     * guest cannot be told. */
    void (*announce)(KumoDevice *device);
    bool (*ask_removal)(KumoDevice *device, GError **error);
    /* NULL. Gives the medium, or what it plugs or takes of memory, a new size and tells the guest.
     */
    bool (*resize)(KumoDevice *device, uint64_t size_bytes, GError **error);
    /* NULL. Returns: the bytes by which it makes the guest's memory larger or, negative, smaller at
     * present. */
    int64_t (*memory_bytes)(KumoDevice *device);
    /* NULL. Takes over from @wanted, the part of the configuration that the device comes from, what
     * may change while the guest runs; the rest is as in the device's own. FALSE with @error: all
     * is as it was. */
    bool (*update)(KumoDevice *device, const void *wanted, GError **error);
    /* NULL. Of a device in the rate limit group @group: puts @limiter, NULL for none, in place of
     * the group's; of another: nothing. FALSE with @error: all is as it was. */
    bool (*set_group_limiter)(KumoDevice *device, const char *group, KumoRateLimiter *limiter,
                              GError **error);
    /* NULL. Writes out what of its medium only this host has in its memory. Any thread, while no
     * device comes or goes. */
    bool (*flush)(KumoDevice *device, GError **error);
    /* NULL. Of a paused device: takes the lock of its medium, or releases it for another host;
     * @ret_exclusive: (out): a lock that nobody can have beside another was released. */
    bool (*lock)(KumoDevice *device, bool lock, bool *ret_exclusive, GError **error);
    const KumoDeviceState *state; /* NULL: there is nothing to keep */
    /* NULL. Tells the device that the VMM's terminal changed its size (SIGWINCH). */
    void (*console_resized)(KumoDevice *device);
} KumoDeviceOps;

struct KumoDevice {
    const KumoDeviceOps *ops;
    KumoMachine *machine;
    char *id; /* unique in the machine; owned */
    bool realized;
    bool removal_asked;   /* main thread: the guest was asked to let it go */
    _Atomic bool ejected; /* the guest let it go: the main loop removes it */
    _Atomic bool refused; /* the guest said that it does not let it go, since it was asked last */
};

/* Fills the base of a new device. @id is copied. */
void kumo_device_init(KumoDevice *device, const KumoDeviceOps *ops, KumoMachine *machine,
                      const char *id);

/**
 * kumo_device_add:
 * @device: (transfer full): freed if it fails
 *
 * Realizes @device and appends it to machine->devices.
 *
 * Returns: TRUE, or FALSE with @error, prefixed with the device's id, set.
 */
bool kumo_device_add(KumoDevice *device, GError **error);

/* Unrealizes and frees; the device must be in machine->devices, and is taken out. */
void kumo_device_remove(KumoDevice *device);

/* Returns: (transfer none): the device with @id, or NULL. */
KumoDevice *kumo_device_find(KumoMachine *machine, const char *id);

/* Which list of the configuration a type's devices come from. */
typedef enum {
    KUMO_DEVICE_LIST_NONE,
    KUMO_DEVICE_LIST_DISKS,
    KUMO_DEVICE_LIST_NETS,
} KumoDeviceList;

/*
 * A kind of device, as the array of device types lists it: create makes and adds as many devices as
 * the configuration asks for, none included. The array's order is the order in which a machine is
 * built.
 */
typedef struct {
    const char *name;
    bool (*create)(KumoMachine *machine, const KumoVmConfig *config, GError **error);
    /* NONE and NULL for what cannot be added to a running machine. @entry, of @list, outlives the
     * device. Returns: (transfer full): a device for kumo_device_add(). */
    KumoDeviceList list;
    KumoDevice *(*hotplug)(KumoMachine *machine, const void *entry);
} KumoDeviceType;
