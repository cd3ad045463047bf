/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * MSI-X. A vector's KumoMsi is made when the guest unmasks the vector for the first time: most
 * vectors of a machine are never used, and each would cost a descriptor and a place in the routing
 * table.
 *
 * Enable and function mask are written under the function's lock and read by any thread; each
 * vector's entry and pending bit are under the vector's own lock, so that queues on different
 * threads do not wait for each other.
 */
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/pci/pci-internal.h"

/* Table entry and message control (PCI 3.0, 6.8.2). */
enum {
    ENTRY_SIZE = 16,
    ENTRY_DATA = 8,
    ENTRY_CONTROL = 12,
    ENTRY_MASKED = 1,
    CONTROL_FUNCTION_MASK = 0x40, /* of the high byte */
    CONTROL_ENABLE = 0x80,
};

typedef struct {
    GMutex lock;
    uint8_t entry[ENTRY_SIZE];
    bool pending;
    bool routed;
    KumoMsi *msi; /* NULL until it is needed */
} Vector;

struct KumoMsix {
    KumoPciFunction *function;
    unsigned n_vectors;
    unsigned cap;
    atomic_bool enabled;
    atomic_bool masked; /* the whole function */
    Vector vectors[];
};

KumoMsix *kumo_msix_new(KumoPciFunction *function, unsigned n_vectors, unsigned bar,
                        uint32_t table_offset, uint32_t pba_offset)
{
    KumoMsix *msix;
    uint8_t body[10];

    g_assert(n_vectors >= 1 && n_vectors <= KUMO_PCI_MAX_MSIX_VECTORS && bar < KUMO_PCI_BARS);
    msix = g_malloc0(sizeof(*msix) + n_vectors * sizeof(Vector));
    msix->function = function;
    msix->n_vectors = n_vectors;
    for (unsigned i = 0; i < n_vectors; i++) {
        g_mutex_init(&msix->vectors[i].lock);
        msix->vectors[i].entry[ENTRY_CONTROL] = ENTRY_MASKED;
    }

    pci_put16(body, (uint16_t)(n_vectors - 1));
    pci_put32(body + 2, table_offset | bar);
    pci_put32(body + 6, pba_offset | bar);
    msix->cap = kumo_pci_add_cap(function, PCI_CAP_MSIX, body, sizeof(body));
    function->write_mask[msix->cap + PCI_MSIX_CONTROL + 1] = CONTROL_ENABLE | CONTROL_FUNCTION_MASK;
    function->msix = msix;
    return msix;
}

void kumo_msix_free(KumoMsix *msix)
{
    if (!msix)
        return;
    for (unsigned i = 0; i < msix->n_vectors; i++) {
        Vector *vector = &msix->vectors[i];

        if (vector->routed)
            kumo_msi_route(vector->msi, false, 0, 0, NULL);
        if (vector->msi)
            kumo_msi_free(vector->msi);
        g_mutex_clear(&vector->lock);
    }
    msix->function->msix = NULL;
    g_free(msix);
}

/* Lock held. */
static bool route(KumoMsix *msix, Vector *vector)
{
    g_autoptr(GError) error = NULL;

    if (!vector->msi)
        vector->msi = kumo_msi_new(msix->function->device->machine->irq, &error);
    vector->routed = vector->msi && kumo_msi_route(vector->msi, true, pci_get64(vector->entry),
                                                   pci_get32(vector->entry + ENTRY_DATA), &error);
    if (!vector->routed)
        kumo_warn_guest("%s: MSI-X vector %u: %s", msix->function->device->id,
                        (unsigned)(vector - msix->vectors), error ? error->message : "not routed");
    return vector->routed;
}

static bool is_live(const KumoMsix *msix, const Vector *vector)
{
    return atomic_load(&msix->enabled) && !atomic_load(&msix->masked) &&
           !(vector->entry[ENTRY_CONTROL] & ENTRY_MASKED);
}

/* Something that decides about delivery changed. Lock held. */
static void refresh(KumoMsix *msix, Vector *vector)
{
    if (is_live(msix, vector)) {
        if (route(msix, vector) && vector->pending) {
            vector->pending = false;
            kumo_msi_trigger(vector->msi);
        }
    } else if (!atomic_load(&msix->enabled)) {
        vector->pending = false;
        if (vector->routed)
            kumo_msi_route(vector->msi, false, 0, 0, NULL);
        vector->routed = false;
    }
}

void kumo_msix_update(KumoMsix *msix)
{
    uint8_t control = msix->function->config[msix->cap + PCI_MSIX_CONTROL + 1];
    bool enabled = (control & CONTROL_ENABLE) != 0;
    bool masked = (control & CONTROL_FUNCTION_MASK) != 0;

    if (enabled == atomic_load(&msix->enabled) && masked == atomic_load(&msix->masked))
        return;
    /* Mask first when both change: nothing may slip through in between. */
    if (masked)
        atomic_store(&msix->masked, true);
    atomic_store(&msix->enabled, enabled);
    atomic_store(&msix->masked, masked);
    for (unsigned i = 0; i < msix->n_vectors; i++) {
        g_mutex_lock(&msix->vectors[i].lock);
        refresh(msix, &msix->vectors[i]);
        g_mutex_unlock(&msix->vectors[i].lock);
    }
}

static void pba_read(KumoMsix *msix, uint64_t offset, uint8_t *data, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        uint64_t first = (offset + i) * 8;

        data[i] = 0;
        for (unsigned bit = 0; bit < 8 && first + bit < msix->n_vectors; bit++) {
            Vector *vector = &msix->vectors[first + bit];

            g_mutex_lock(&vector->lock);
            data[i] |= (uint8_t)(vector->pending << bit);
            g_mutex_unlock(&vector->lock);
        }
    }
}

/* The part of an access that lies in one entry. Lock held. */
static void entry_access(Vector *vector, unsigned offset, uint8_t *data, unsigned size, bool write)
{
    if (!write) {
        memcpy(data, vector->entry + offset, size);
        return;
    }
    memcpy(vector->entry + offset, data, size);
    memset(vector->entry + ENTRY_CONTROL + 1, 0, ENTRY_SIZE - ENTRY_CONTROL - 1);
    vector->entry[ENTRY_CONTROL] &= ENTRY_MASKED;
    vector->entry[0] &= 0xfc;
}

void kumo_msix_access(KumoMsix *msix, bool pba, uint64_t offset, uint8_t *data, unsigned size,
                      bool write)
{
    uint64_t end = (uint64_t)msix->n_vectors * ENTRY_SIZE;

    if (offset > UINT32_MAX || pba) {
        if (!write && offset > UINT32_MAX)
            memset(data, 0, size);
        else if (!write)
            pba_read(msix, offset, data, size);
        return;
    }
    while (size > 0) {
        unsigned at = (unsigned)offset % ENTRY_SIZE;
        unsigned part = MIN(size, ENTRY_SIZE - at);
        Vector *vector;

        if (offset >= end) {
            if (!write)
                memset(data, 0, size);
            return;
        }
        vector = &msix->vectors[offset / ENTRY_SIZE];
        g_mutex_lock(&vector->lock);
        entry_access(vector, at, data, part, write);
        if (write)
            refresh(msix, vector);
        g_mutex_unlock(&vector->lock);
        offset += part;
        data += part;
        size -= part;
    }
}

void kumo_msix_trigger(KumoMsix *msix, unsigned number)
{
    Vector *vector;

    if (number >= msix->n_vectors || !atomic_load(&msix->enabled))
        return;
    vector = &msix->vectors[number];
    g_mutex_lock(&vector->lock);
    if (!is_live(msix, vector))
        vector->pending = atomic_load(&msix->enabled);
    else if (vector->routed)
        kumo_msi_trigger(vector->msi);
    g_mutex_unlock(&vector->lock);
}

bool kumo_msix_enabled(const KumoMsix *msix)
{
    return atomic_load(&msix->enabled);
}

void kumo_msix_save(KumoMsix *msix, KumoPciFunctionState *ret)
{
    ret->vectors = g_new0(KumoMsixVectorState, msix->n_vectors);
    ret->n_vectors = msix->n_vectors;
    for (unsigned i = 0; i < msix->n_vectors; i++) {
        Vector *vector = &msix->vectors[i];

        g_mutex_lock(&vector->lock);
        memcpy(ret->vectors[i].entry, vector->entry, ENTRY_SIZE);
        ret->vectors[i].pending = vector->pending;
        g_mutex_unlock(&vector->lock);
    }
}

bool kumo_msix_load(KumoMsix *msix, const KumoPciFunctionState *state, GError **error)
{
    if (state->n_vectors != msix->n_vectors) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "state: vectors: %zu of them, this device has %u", state->n_vectors,
                    msix->n_vectors);
        return false;
    }
    for (unsigned i = 0; i < msix->n_vectors; i++) {
        Vector *vector = &msix->vectors[i];
        uint8_t entry[ENTRY_SIZE];

        memcpy(entry, state->vectors[i].entry, ENTRY_SIZE);
        g_mutex_lock(&vector->lock);
        entry_access(vector, 0, entry, ENTRY_SIZE, true);
        vector->pending = state->vectors[i].pending;
        g_mutex_unlock(&vector->lock);
    }
    return true;
}
