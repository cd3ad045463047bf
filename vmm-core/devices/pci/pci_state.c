/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What snapshots keep of PCI functions, and how it comes back. */
#include <inttypes.h>
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/devices/pci/pci-internal.h"

static const KumoStateField vector_fields[] = {
    { KUMO_STATE_ROW(BYTES, KumoMsixVectorState, entry), .count = 16 },
    { KUMO_STATE_ROW(BOOL, KumoMsixVectorState, pending) },
};

static const KumoStateTable vector_table = {
    .name = "MSI-X vector",
    .version = 1,
    .fields = vector_fields,
    .n_fields = G_N_ELEMENTS(vector_fields),
    .size = sizeof(KumoMsixVectorState),
};

static const KumoStateField function_fields[] = {
    { KUMO_STATE_ROW(U32, KumoPciFunctionState, segment) },
    { KUMO_STATE_ROW(U32, KumoPciFunctionState, slot) },
    { KUMO_STATE_ROW(BYTES, KumoPciFunctionState, config), .count = KUMO_PCI_STATE_CONFIG },
    { KUMO_STATE_ROW(BOOL, KumoPciFunctionState, intx) },
    { KUMO_STATE_ROW(TABLE, KumoPciFunctionState, vectors), .table = &vector_table, .list = true,
      .count_offset = offsetof(KumoPciFunctionState, n_vectors), .max = KUMO_PCI_MAX_MSIX_VECTORS },
};

const KumoStateTable kumo_pci_function_state_table = {
    .name = "PCI function",
    .version = 1,
    .fields = function_fields,
    .n_fields = G_N_ELEMENTS(function_fields),
    .size = sizeof(KumoPciFunctionState),
};

void kumo_pci_function_save(KumoPciFunction *function, KumoPciFunctionState *ret)
{
    g_mutex_lock(&function->lock);
    ret->segment = function->segment;
    ret->slot = (uint32_t)function->slot;
    memcpy(ret->config, function->config, sizeof(ret->config));
    g_mutex_unlock(&function->lock);
    ret->intx = __atomic_load_n(&function->intx_wanted, __ATOMIC_RELAXED);
    if (function->msix)
        kumo_msix_save(function->msix, ret);
}

/* Firmware boots from disks with a BAR below 4 GiB, one that came later has its BAR above: which it
 * is came about in the life of the machine that was saved. */
static void adopt_bar_kind(KumoPciFunction *function, unsigned index, const uint8_t *config)
{
    KumoPciBar bar = function->bars[index];
    bool is64 = (config[PCI_BAR0 + 4 * index] & 0xf) == PCI_BAR_TYPE_64;
    unsigned next = index + 1;

    if ((bar.kind != KUMO_PCI_BAR_MEM32 && bar.kind != KUMO_PCI_BAR_MEM64) || bar.mapped ||
        is64 == (bar.kind == KUMO_PCI_BAR_MEM64) || next >= KUMO_PCI_BARS ||
        function->bars[next].kind != KUMO_PCI_BAR_NONE)
        return;
    bar.kind = is64 ? KUMO_PCI_BAR_MEM64 : KUMO_PCI_BAR_MEM32;
    memset(function->config + PCI_BAR0 + 4 * index, 0, 8);
    memset(function->write_mask + PCI_BAR0 + 4 * index, 0, 8);
    kumo_pci_function_set_bar(function, index, &bar);
}

/* Function lock held. */
static bool load_config(KumoPciFunction *function, const KumoPciFunctionState *state,
                        GError **error)
{
    for (unsigned i = 0; i < KUMO_PCI_BARS; i++)
        adopt_bar_kind(function, i, state->config);
    for (unsigned i = 0; i < KUMO_PCI_STATE_CONFIG; i++) {
        uint8_t mask = function->write_mask[i];

        if ((state->config[i] ^ function->config[i]) & ~mask & 0xff) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "state: config: byte 0x%02x was 0x%02x and is 0x%02x here: the guest would "
                        "see a difference",
                        i, state->config[i], function->config[i]);
            return false;
        }
    }
    memcpy(function->config, state->config, sizeof(state->config));
    kumo_pci_update_bars(function);
    kumo_pci_update_intx(function);
    if (function->msix)
        kumo_msix_update(function->msix);
    return true;
}

bool kumo_pci_function_load(KumoPciFunction *function, const KumoPciFunctionState *state,
                            GError **error)
{
    bool ok;

    if (!kumo_state_check_u64("segment", state->segment, function->segment, error) ||
        !kumo_state_check_u64("slot", state->slot, (uint64_t)function->slot, error))
        return false;
    if (function->msix ? !kumo_msix_load(function->msix, state, error) : state->n_vectors != 0)
        return false;
    g_mutex_lock(&function->lock);
    ok = load_config(function, state, error);
    g_mutex_unlock(&function->lock);
    if (ok)
        kumo_pci_set_intx(function, state->intx);
    return ok;
}

/* --- the host bridge: its address port, and what is known of hotplug in each segment --- */

typedef struct {
    uint32_t up, down, removable;
} SegmentState;

typedef struct {
    KumoPciFunctionState bridge;
    uint32_t address;
    uint32_t hotplug_select;
    SegmentState *segments;
    size_t n_segments;
} RootState;

static const KumoStateField segment_fields[] = {
    { KUMO_STATE_ROW(U32, SegmentState, up) },
    { KUMO_STATE_ROW(U32, SegmentState, down) },
    { KUMO_STATE_ROW(U32, SegmentState, removable) },
};

static const KumoStateTable segment_table = {
    .name = "PCI segment",
    .version = 1,
    .fields = segment_fields,
    .n_fields = G_N_ELEMENTS(segment_fields),
    .size = sizeof(SegmentState),
};

static const KumoStateField root_fields[] = {
    { KUMO_STATE_ROW(TABLE, RootState, bridge), .table = &kumo_pci_function_state_table },
    { KUMO_STATE_ROW(U32, RootState, address) },
    { KUMO_STATE_ROW(U32, RootState, hotplug_select) },
    { KUMO_STATE_ROW(TABLE, RootState, segments), .table = &segment_table, .list = true,
      .count_offset = offsetof(RootState, n_segments), .max = KUMO_PCI_MAX_SEGMENTS },
};

static const KumoStateTable root_table = {
    .name = "pci-root",
    .version = 1,
    .fields = root_fields,
    .n_fields = G_N_ELEMENTS(root_fields),
    .size = sizeof(RootState),
};

static void root_save(KumoDevice *device, void *opaque)
{
    KumoPciRoot *root = (KumoPciRoot *)device;
    RootState *state = opaque;

    kumo_pci_function_save(&root->bridge, &state->bridge);
    g_mutex_lock(&root->address_lock);
    state->address = root->address;
    g_mutex_unlock(&root->address_lock);
    state->segments = g_new0(SegmentState, root->n_segments);
    state->n_segments = root->n_segments;
    g_mutex_lock(&root->hotplug_lock);
    state->hotplug_select = root->hotplug_select;
    for (unsigned i = 0; i < root->n_segments; i++)
        state->segments[i] = (SegmentState){
            .up = root->segments[i].up,
            .down = root->segments[i].down,
            .removable = root->segments[i].removable,
        };
    g_mutex_unlock(&root->hotplug_lock);
}

/* The devices that follow come back one by one, each to where the guest put it: nobody may be in
 * the way, and where they are now is only where they were placed at first. */
static void unmap_all(KumoPciRoot *root)
{
    for (unsigned i = 0; i < root->n_segments; i++) {
        for (unsigned slot = 0; slot < KUMO_PCI_SLOTS; slot++) {
            KumoPciFunction *function = atomic_load(&root->segments[i].slots[slot]);

            if (!function)
                continue;
            g_mutex_lock(&function->lock);
            kumo_pci_unmap_bars(function);
            g_mutex_unlock(&function->lock);
        }
    }
}

static bool root_load(KumoDevice *device, const void *opaque, GError **error)
{
    KumoPciRoot *root = (KumoPciRoot *)device;
    const RootState *state = opaque;

    if (!kumo_state_check_u64("segments", state->n_segments, root->n_segments, error))
        return false;
    unmap_all(root);
    g_mutex_lock(&root->address_lock);
    root->address = state->address;
    g_mutex_unlock(&root->address_lock);
    g_mutex_lock(&root->hotplug_lock);
    root->hotplug_select = state->hotplug_select;
    for (unsigned i = 0; i < root->n_segments; i++) {
        root->segments[i].up = state->segments[i].up;
        root->segments[i].down = state->segments[i].down;
        root->segments[i].removable = state->segments[i].removable;
    }
    g_mutex_unlock(&root->hotplug_lock);
    return kumo_pci_function_load(&root->bridge, &state->bridge, error);
}

const KumoDeviceState kumo_pci_root_state = {
    .table = &root_table,
    .save = root_save,
    .load = root_load,
};
