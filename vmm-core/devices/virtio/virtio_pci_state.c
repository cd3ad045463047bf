/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What snapshots keep of a virtio device's transport and of its queues. */
#include <inttypes.h>
#include <string.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/devices/virtio/virtio_pci-internal.h"

enum { NO_VECTOR = 0xffff, MAX_QUEUES = 1024 };

static const KumoStateField queue_fields[] = {
    { KUMO_STATE_ROW(U16, KumoVirtqState, size) },
    { KUMO_STATE_ROW(BOOL, KumoVirtqState, ready) },
    { KUMO_STATE_ROW(U64, KumoVirtqState, desc_gpa) },
    { KUMO_STATE_ROW(U64, KumoVirtqState, avail_gpa) },
    { KUMO_STATE_ROW(U64, KumoVirtqState, used_gpa) },
    { KUMO_STATE_ROW(U16, KumoVirtqState, msix_vector) },
    { KUMO_STATE_ROW(U16, KumoVirtqState, last_avail) },
    { KUMO_STATE_ROW(U16, KumoVirtqState, last_used) },
    { KUMO_STATE_ROW(BOOL, KumoVirtqState, broken) },
};

static const KumoStateTable queue_table = {
    .name = "virtqueue",
    .version = 1,
    .fields = queue_fields,
    .n_fields = G_N_ELEMENTS(queue_fields),
    .size = sizeof(KumoVirtqState),
};

static const KumoStateField pci_fields[] = {
    { KUMO_STATE_ROW(TABLE, KumoVirtioPciState, function),
      .table = &kumo_pci_function_state_table },
    { KUMO_STATE_ROW(U8, KumoVirtioPciState, status) },
    { KUMO_STATE_ROW(U8, KumoVirtioPciState, isr) },
    { KUMO_STATE_ROW(U8, KumoVirtioPciState, generation) },
    { KUMO_STATE_ROW(U16, KumoVirtioPciState, config_vector) },
    { KUMO_STATE_ROW(U64, KumoVirtioPciState, offered) },
    { KUMO_STATE_ROW(U64, KumoVirtioPciState, driver_features) },
    { KUMO_STATE_ROW(U32, KumoVirtioPciState, device_feature_select) },
    { KUMO_STATE_ROW(U32, KumoVirtioPciState, driver_feature_select) },
    { KUMO_STATE_ROW(U16, KumoVirtioPciState, queue_select) },
    { KUMO_STATE_ROW(BOOL, KumoVirtioPciState, active) },
    { KUMO_STATE_ROW(TABLE, KumoVirtioPciState, queues), .table = &queue_table, .list = true,
      .count_offset = offsetof(KumoVirtioPciState, n_queues), .max = MAX_QUEUES },
};

const KumoStateTable kumo_virtio_pci_state_table = {
    .name = "virtio transport",
    .version = 1,
    .fields = pci_fields,
    .n_fields = G_N_ELEMENTS(pci_fields),
    .size = sizeof(KumoVirtioPciState),
};

void kumo_virtio_pci_save(KumoVirtio *virtio, KumoVirtioPciState *ret)
{
    KumoVirtioPci *pci = virtio->pci;

    kumo_pci_function_save(&pci->function, &ret->function);
    g_mutex_lock(&pci->lock);
    ret->status = atomic_load(&pci->status);
    ret->isr = atomic_load(&pci->isr);
    ret->generation = atomic_load(&pci->generation);
    ret->config_vector = atomic_load(&pci->config_vector);
    ret->offered = virtio->offered;
    ret->driver_features = pci->driver_features;
    ret->device_feature_select = pci->device_feature_select;
    ret->driver_feature_select = pci->driver_feature_select;
    ret->queue_select = pci->queue_select;
    ret->active = virtio->active;
    ret->queues = g_new0(KumoVirtqState, virtio->n_queues);
    ret->n_queues = virtio->n_queues;
    for (unsigned i = 0; i < virtio->n_queues; i++) {
        const KumoVirtq *queue = &virtio->queues[i];

        ret->queues[i] = (KumoVirtqState){
            .size = queue->size,
            .ready = queue->ready,
            .desc_gpa = queue->desc_gpa,
            .avail_gpa = queue->avail_gpa,
            .used_gpa = queue->used_gpa,
            .msix_vector = queue->msix_vector,
            .last_avail = queue->last_avail,
            .last_used = queue->last_used,
            .broken = queue->broken,
        };
    }
    g_mutex_unlock(&pci->lock);
}

static uint16_t valid_vector(const KumoVirtioPci *pci, uint16_t vector)
{
    return vector < pci->n_vectors ? vector : NO_VECTOR;
}

static bool load_queues(KumoVirtioPci *pci, const KumoVirtioPciState *state, GError **error)
{
    KumoVirtio *virtio = pci->virtio;

    for (unsigned i = 0; i < virtio->n_queues; i++) {
        const KumoVirtqState *saved = &state->queues[i];
        KumoVirtq *queue = &virtio->queues[i];

        if (!kumo_is_pow2(saved->size) || saved->size > queue->max_size) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "state: queues[%u].size: %u is not a power of two up to %u", i, saved->size,
                        queue->max_size);
            return false;
        }
        queue->size = saved->size;
        queue->ready = saved->ready;
        queue->desc_gpa = saved->desc_gpa;
        queue->avail_gpa = saved->avail_gpa;
        queue->used_gpa = saved->used_gpa;
        queue->msix_vector = valid_vector(pci, saved->msix_vector);
        queue->last_avail = saved->last_avail;
        queue->last_used = saved->last_used;
    }
    return true;
}

/* The queues' rings are mapped again, as if the driver had just set DRIVER_OK, yet where they were.
 */
static bool activate(KumoVirtioPci *pci, const KumoVirtioPciState *state, GError **error)
{
    KumoVirtio *virtio = pci->virtio;

    if (!kumo_virtio_pci_start_queues(virtio, error)) {
        kumo_prefix_error(error, "state");
        return false;
    }
    for (unsigned i = 0; i < virtio->n_queues; i++)
        virtio->queues[i].broken = state->queues[i].broken;
    virtio->active = true;
    kumo_virtio_pci_update_ioeventfds(pci);
    return true;
}

/* Lock held. */
static bool load_transport(KumoVirtioPci *pci, const KumoVirtioPciState *state, GError **error)
{
    KumoVirtio *virtio = pci->virtio;
    bool features_ok = (state->status & KUMO_VIRTIO_S_FEATURES_OK) != 0;

    if (state->active && (!features_ok || !(state->status & KUMO_VIRTIO_S_DRIVER_OK))) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "state: status: 0x%02x is not that of an active device", state->status);
        return false;
    }
    if (features_ok && ((state->driver_features & ~state->offered) ||
                        !(state->driver_features & KUMO_VIRTIO_F_VERSION_1))) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "state: driver_features: 0x%" PRIx64 " are not among those offered, 0x%" PRIx64,
                    state->driver_features, state->offered);
        return false;
    }
    virtio->offered = state->offered;
    virtio->negotiated = features_ok ? state->driver_features : 0;
    pci->driver_features = state->driver_features;
    pci->device_feature_select = state->device_feature_select;
    pci->driver_feature_select = state->driver_feature_select;
    pci->queue_select = state->queue_select;
    atomic_store(&pci->config_vector, valid_vector(pci, state->config_vector));
    atomic_store(&pci->generation, state->generation);
    atomic_store(&pci->isr, state->isr);
    atomic_store(&pci->status, state->status);
    return load_queues(pci, state, error) && (!state->active || activate(pci, state, error));
}

bool kumo_virtio_pci_load(KumoVirtio *virtio, const KumoVirtioPciState *state, GError **error)
{
    KumoVirtioPci *pci = virtio->pci;
    bool ok;

    if (!kumo_state_check_u64("queues", state->n_queues, virtio->n_queues, error))
        return false;
    if (state->offered & ~virtio->offered) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "state: offered: the device offered the features 0x%" PRIx64
                    ", which it does not have here",
                    state->offered & ~virtio->offered);
        return false;
    }
    if (!kumo_pci_function_load(&pci->function, &state->function, error))
        return false;
    g_mutex_lock(&pci->lock);
    ok = load_transport(pci, state, error);
    g_mutex_unlock(&pci->lock);
    return ok;
}

static void state_save(KumoDevice *device, void *state)
{
    kumo_virtio_pci_save((KumoVirtio *)device, state);
}

static bool state_load(KumoDevice *device, const void *state, GError **error)
{
    return kumo_virtio_pci_load((KumoVirtio *)device, state, error);
}

const KumoDeviceState kumo_virtio_pci_state = {
    .table = &kumo_virtio_pci_state_table,
    .save = state_save,
    .load = state_load,
};
