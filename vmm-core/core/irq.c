/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The routing table with the GSIs of message-signalled interrupts; the IOAPIC itself is in
 * ioapic.c. */
#include "vmm-core/core/irq.h"

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/core/irq-internal.h"

/* What hypervisors take as a routing table, pins included. */
enum { MAX_GSIS = 4096 };

struct KumoMsi {
    KumoIrq *irq;
    uint32_t gsi;
    int fd;
    bool connected; /* its eventfd with the hypervisor */
    bool awaited;   /* to be connected when the routing table is there, see kumo_irq_hold() */

    /* Under irq->lock. A route stays in the table while disconnected: it does no harm there, and
     * most devices come back with the same one. */
    bool routed;
    uint64_t address;
    uint32_t data;
};

KumoIrq *kumo_irq_new(KumoHvVm *vm)
{
    KumoIrq *irq = g_new0(KumoIrq, 1);

    irq->vm = vm;
    irq->msis = g_ptr_array_new();
    irq->routes = g_array_new(FALSE, FALSE, sizeof(KumoHvMsiRoute));
    irq->installed = g_array_new(FALSE, FALSE, sizeof(KumoHvMsiRoute));
    g_mutex_init(&irq->lock);
    for (unsigned pin = 0; pin < KUMO_IOAPIC_PINS; pin++)
        irq->redirection[pin] = KUMO_IOAPIC_MASKED;
    return irq;
}

void kumo_irq_free(KumoIrq *irq)
{
    if (!irq)
        return;
    g_ptr_array_unref(irq->msis);
    g_array_unref(irq->routes);
    g_array_unref(irq->installed);
    g_mutex_clear(&irq->lock);
    g_free(irq);
}

/* Each change costs a grace period of the host's kernel, some milliseconds where processors are
 * busy, and restoring or resetting a machine often changes nothing. */
static bool is_installed(const KumoIrq *irq)
{
    if (irq->routes->len != irq->installed->len)
        return false;
    for (guint i = 0; i < irq->routes->len; i++) {
        const KumoHvMsiRoute *wanted = &g_array_index(irq->routes, KumoHvMsiRoute, i);
        const KumoHvMsiRoute *there = &g_array_index(irq->installed, KumoHvMsiRoute, i);

        if (wanted->gsi != there->gsi || wanted->address != there->address ||
            wanted->data != there->data)
            return false;
    }
    return true;
}

bool kumo_irq_update_routes_locked(KumoIrq *irq, GError **error)
{
    GArray *old;

    if (irq->held)
        return true;
    g_array_set_size(irq->routes, 0);
    for (unsigned pin = 0; pin < KUMO_IOAPIC_PINS; pin++) {
        if (irq->routed_pins & 1u << pin)
            g_array_append_val(irq->routes, irq->pin_routes[pin]);
    }
    for (unsigned i = 0; i < irq->msis->len; i++) {
        const KumoMsi *msi = g_ptr_array_index(irq->msis, i);

        if (msi && msi->routed) {
            KumoHvMsiRoute route = { .gsi = msi->gsi, .address = msi->address, .data = msi->data };

            g_array_append_val(irq->routes, route);
        }
    }
    if (is_installed(irq))
        return true;
    if (!irq->vm->ops->set_gsi_routing(irq->vm, (const KumoHvMsiRoute *)(void *)irq->routes->data,
                                       irq->routes->len, error))
        return false;
    old = irq->installed;
    irq->installed = irq->routes;
    irq->routes = old;
    return true;
}

KumoMsi *kumo_msi_new(KumoIrq *irq, GError **error)
{
    kumo_auto_fd fd = kumo_eventfd_new(error);
    KumoMsi *msi;
    unsigned i;

    if (fd < 0)
        return NULL;
    g_mutex_lock(&irq->lock);
    for (i = 0; i < irq->msis->len && g_ptr_array_index(irq->msis, i); i++)
        ;
    if (KUMO_IOAPIC_PINS + i >= MAX_GSIS) {
        g_mutex_unlock(&irq->lock);
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_RESOURCE, "interrupts: all %d GSIs are in use",
                    MAX_GSIS);
        return NULL;
    }
    msi = g_new0(KumoMsi, 1);
    msi->irq = irq;
    msi->gsi = KUMO_IOAPIC_PINS + i;
    msi->fd = kumo_fd_steal(&fd);
    if (i == irq->msis->len)
        g_ptr_array_add(irq->msis, msi);
    else
        g_ptr_array_index(irq->msis, i) = msi;
    g_mutex_unlock(&irq->lock);
    return msi;
}

static bool msi_connect(KumoMsi *msi, bool connect, GError **error)
{
    KumoHvVm *vm = msi->irq->vm;

    if (msi->connected == connect)
        return true;
    if (!vm->ops->irqfd(vm, msi->fd, -1, msi->gsi, connect, error))
        return false;
    msi->connected = connect;
    return true;
}

void kumo_msi_free(KumoMsi *msi)
{
    g_autoptr(GError) error = NULL;
    KumoIrq *irq;

    if (!msi)
        return;
    irq = msi->irq;
    if (!msi_connect(msi, false, &error))
        kumo_warn("interrupts: GSI %u: %s", msi->gsi, error->message);
    /* The stale route leaves the table with the next change; nothing can fire it any more. */
    g_mutex_lock(&irq->lock);
    g_ptr_array_index(irq->msis, msi->gsi - KUMO_IOAPIC_PINS) = NULL;
    g_mutex_unlock(&irq->lock);
    kumo_fd_clear(&msi->fd);
    g_free(msi);
}

bool kumo_msi_route(KumoMsi *msi, bool enable, uint64_t address, uint32_t data, GError **error)
{
    KumoIrq *irq = msi->irq;
    bool ok = true;

    if (!enable) {
        msi->awaited = false;
        return msi_connect(msi, false, error);
    }
    g_mutex_lock(&irq->lock);
    if (!msi->routed || msi->address != address || msi->data != data) {
        bool was_routed = msi->routed;
        uint64_t old_address = msi->address;
        uint32_t old_data = msi->data;

        msi->routed = true;
        msi->address = address;
        msi->data = data;
        ok = kumo_irq_update_routes_locked(irq, error);
        if (!ok) {
            msi->routed = was_routed;
            msi->address = old_address;
            msi->data = old_data;
        }
    }
    msi->awaited = ok && irq->held;
    g_mutex_unlock(&irq->lock);
    return ok && (msi->awaited || msi_connect(msi, true, error));
}

void kumo_irq_hold(KumoIrq *irq)
{
    g_mutex_lock(&irq->lock);
    irq->held = true;
    g_mutex_unlock(&irq->lock);
}

bool kumo_irq_release(KumoIrq *irq, GError **error)
{
    bool ok;

    g_mutex_lock(&irq->lock);
    irq->held = false;
    ok = kumo_irq_update_routes_locked(irq, error);
    g_mutex_unlock(&irq->lock);
    /* What has been signalled meanwhile is still in the eventfd, and is delivered now. */
    for (guint i = 0; ok && i < irq->msis->len; i++) {
        KumoMsi *msi = g_ptr_array_index(irq->msis, i);

        if (!msi || !msi->awaited)
            continue;
        msi->awaited = false;
        ok = msi_connect(msi, true, error);
    }
    return ok;
}

void kumo_msi_trigger(KumoMsi *msi)
{
    kumo_eventfd_signal(msi->fd);
}

int kumo_msi_fd(const KumoMsi *msi)
{
    return msi->fd;
}
