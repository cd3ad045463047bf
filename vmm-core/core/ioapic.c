/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The 82093AA I/O APIC. Section numbers are those of its datasheet (Intel 290566-001). */
#include "vmm-core/core/ioapic.h"

#include <string.h>

#include "vmm-core/base/log.h"
#include "vmm-core/core/irq-internal.h"

/* Registers of the window (3.1) and indirect registers (3.2). */
enum {
    REG_SELECT = 0x00,
    REG_WINDOW = 0x10,
    IND_ID = 0x00,
    IND_VERSION = 0x01,
    IND_ARBITRATION = 0x02,
    IND_REDIRECTION = 0x10,
};

#define VERSION_VALUE ((uint32_t)(KUMO_IOAPIC_PINS - 1) << 16 | 0x11)
#define ID_MASK       0x0f000000u

/* A redirection entry (3.2.4). */
#define RED_VECTOR         0xffULL
#define RED_DELIVERY_SHIFT 8
#define RED_DELIVERY_MASK  0x7ULL
#define RED_LOGICAL        (1ULL << 11)
#define RED_PENDING        (1ULL << 12) /* read-only */
#define RED_REMOTE_IRR     (1ULL << 14) /* read-only */
#define RED_LEVEL          (1ULL << 15)
#define RED_MASKED         KUMO_IOAPIC_MASKED
#define RED_READ_ONLY      (RED_PENDING | RED_REMOTE_IRR)
#define RED_EXT_DEST_SHIFT                                                                         \
    49 /* 7 more destination bits, where the hypervisor offers them to the guest */
#define RED_DEST_SHIFT 56

/* The message (Intel SDM 3A, 11.11). */
#define MSI_BASE           0xfee00000ULL
#define MSI_EXT_DEST_SHIFT 5
#define MSI_DEST_SHIFT     12
#define MSI_LOGICAL        (1ULL << 2)
#define MSI_ASSERT         (1u << 14)
#define MSI_LEVEL          (1u << 15)

/* The message that a redirection entry stands for. Returns: whether its end has to be reported
 * (level). */
static bool entry_message(uint64_t entry, uint64_t *ret_address, uint32_t *ret_data)
{
    *ret_address = MSI_BASE | (entry >> RED_DEST_SHIFT) << MSI_DEST_SHIFT |
                   ((entry >> RED_EXT_DEST_SHIFT) & 0x7f) << MSI_EXT_DEST_SHIFT |
                   ((entry & RED_LOGICAL) ? MSI_LOGICAL : 0);
    *ret_data = (uint32_t)(entry & RED_VECTOR) |
                (uint32_t)((entry >> RED_DELIVERY_SHIFT) & RED_DELIVERY_MASK)
                    << RED_DELIVERY_SHIFT |
                ((entry & RED_LEVEL) ? MSI_LEVEL | MSI_ASSERT : 0);
    return (entry & RED_LEVEL) != 0;
}

/* Sets a pin's entry and its row of the routing table. Returns: whether the table is another now.
 */
static bool set_entry(KumoIrq *irq, unsigned pin, uint64_t entry)
{
    KumoHvMsiRoute route = { .gsi = pin };
    const KumoHvMsiRoute *old = &irq->pin_routes[pin];
    bool was_routed = (irq->routed_pins & 1u << pin) != 0;
    bool is_routed = entry_message(entry, &route.address, &route.data);
    bool changed = was_routed != is_routed ||
                   (is_routed && (old->address != route.address || old->data != route.data));

    irq->redirection[pin] = entry;
    irq->pin_routes[pin] = route;
    irq->routed_pins = is_routed ? irq->routed_pins | 1u << pin : irq->routed_pins & ~(1u << pin);
    return changed;
}

static void pin_fire(KumoIrq *irq, unsigned pin)
{
    g_autoptr(GError) error = NULL;
    uint64_t address;
    uint32_t data;

    if (entry_message(irq->redirection[pin], &address, &data))
        irq->redirection[pin] |= RED_REMOTE_IRR;
    if (!irq->vm->ops->signal_msi(irq->vm, address, data, &error))
        kumo_warn_guest("ioapic: pin %u, vector 0x%x: %s", pin, data & 0xff, error->message);
}

/* A level pin that is asserted, unmasked and not being served fires. */
static void pin_service_level(KumoIrq *irq, unsigned pin)
{
    uint64_t entry = irq->redirection[pin];

    if ((entry & RED_LEVEL) && !(entry & (RED_MASKED | RED_REMOTE_IRR)) &&
        (irq->levels & 1u << pin))
        pin_fire(irq, pin);
}

void kumo_irq_set_level(KumoIrq *irq, unsigned gsi, bool level)
{
    g_return_if_fail(gsi < KUMO_IOAPIC_PINS);
    g_mutex_lock(&irq->lock);
    if (level) {
        bool rising = !(irq->levels & 1u << gsi);
        uint64_t entry = irq->redirection[gsi];

        irq->levels |= 1u << gsi;
        if (entry & RED_LEVEL)
            pin_service_level(irq, gsi);
        else if (rising && !(entry & RED_MASKED)) /* an edge at a masked pin is lost */
            pin_fire(irq, gsi);
    } else {
        irq->levels &= ~(1u << gsi);
    }
    g_mutex_unlock(&irq->lock);
}

void kumo_irq_pulse(KumoIrq *irq, unsigned gsi)
{
    kumo_irq_set_level(irq, gsi, true);
    kumo_irq_set_level(irq, gsi, false);
}

void kumo_irq_eoi(KumoIrq *irq, uint8_t vector)
{
    g_mutex_lock(&irq->lock);
    for (unsigned pin = 0; pin < KUMO_IOAPIC_PINS; pin++) {
        uint64_t entry = irq->redirection[pin];

        if ((entry & RED_VECTOR) == vector && (entry & RED_LEVEL) && (entry & RED_REMOTE_IRR)) {
            irq->redirection[pin] &= ~RED_REMOTE_IRR;
            pin_service_level(irq, pin);
        }
    }
    g_mutex_unlock(&irq->lock);
}

static uint32_t indirect_read(const KumoIrq *irq)
{
    unsigned index = irq->select;

    switch (index) {
    case IND_ID:
    case IND_ARBITRATION:
        return irq->id;
    case IND_VERSION:
        return VERSION_VALUE;
    default:
        if (index >= IND_REDIRECTION && index < IND_REDIRECTION + 2 * KUMO_IOAPIC_PINS)
            return (uint32_t)(irq->redirection[(index - IND_REDIRECTION) / 2] >>
                              ((index & 1) ? 32 : 0));
        return 0;
    }
}

static void redirection_write(KumoIrq *irq, unsigned pin, bool high, uint32_t value)
{
    uint64_t old = irq->redirection[pin];
    uint64_t entry =
        high ? (old & G_MAXUINT32) | (uint64_t)value << 32 : (old & ~(uint64_t)G_MAXUINT32) | value;
    g_autoptr(GError) error = NULL;

    entry = (entry & ~RED_READ_ONLY) | (old & RED_READ_ONLY);
    /* Guests end an interrupt by hand by making the pin edge-triggered for a moment. */
    if (!(entry & RED_LEVEL))
        entry &= ~RED_REMOTE_IRR;
    if (set_entry(irq, pin, entry) && !kumo_irq_update_routes_locked(irq, &error))
        kumo_warn_guest("ioapic: pin %u, vector 0x%x: %s", pin, (unsigned)(entry & RED_VECTOR),
                        error->message);
    pin_service_level(irq, pin);
}

static void indirect_write(KumoIrq *irq, uint32_t value)
{
    unsigned index = irq->select;

    if (index == IND_ID)
        irq->id = value & ID_MASK;
    else if (index >= IND_REDIRECTION && index < IND_REDIRECTION + 2 * KUMO_IOAPIC_PINS)
        redirection_write(irq, (index - IND_REDIRECTION) / 2, index & 1, value);
}

void kumo_irq_ioapic_read(KumoIrq *irq, uint64_t offset, uint8_t *data, unsigned size)
{
    uint32_t value = 0;

    g_mutex_lock(&irq->lock);
    if (offset == REG_SELECT)
        value = irq->select;
    else if (offset == REG_WINDOW)
        value = indirect_read(irq);
    g_mutex_unlock(&irq->lock);
    value = GUINT32_TO_LE(value);
    memset(data, 0, size);
    memcpy(data, &value, MIN(size, sizeof(value)));
}

void kumo_irq_ioapic_write(KumoIrq *irq, uint64_t offset, const uint8_t *data, unsigned size)
{
    uint32_t value = 0;

    memcpy(&value, data, MIN(size, sizeof(value)));
    value = GUINT32_FROM_LE(value);
    g_mutex_lock(&irq->lock);
    if (offset == REG_SELECT)
        irq->select = (uint8_t)value;
    else if (offset == REG_WINDOW && size == sizeof(value))
        indirect_write(irq, value);
    g_mutex_unlock(&irq->lock);
}

void kumo_irq_reset(KumoIrq *irq)
{
    g_autoptr(GError) error = NULL;

    g_mutex_lock(&irq->lock);
    irq->id = 0;
    irq->select = 0;
    for (unsigned pin = 0; pin < KUMO_IOAPIC_PINS; pin++)
        set_entry(irq, pin, RED_MASKED);
    if (!kumo_irq_update_routes_locked(irq, &error))
        kumo_warn("ioapic: reset: %s", error->message);
    g_mutex_unlock(&irq->lock);
}

static const KumoStateField irq_fields[] = {
    { KUMO_STATE_ROW(U32, KumoIrqState, id) },
    { KUMO_STATE_ROW(U8, KumoIrqState, select) },
    { KUMO_STATE_ROW(U64, KumoIrqState, redirection), .count = KUMO_IOAPIC_PINS },
    { KUMO_STATE_ROW(U32, KumoIrqState, levels) },
};

const KumoStateTable kumo_irq_state_table = {
    .name = "ioapic",
    .version = 1,
    .fields = irq_fields,
    .n_fields = G_N_ELEMENTS(irq_fields),
    .size = sizeof(KumoIrqState),
};

void kumo_irq_save(KumoIrq *irq, KumoIrqState *ret)
{
    g_mutex_lock(&irq->lock);
    ret->id = irq->id;
    ret->select = irq->select;
    memcpy(ret->redirection, irq->redirection, sizeof(ret->redirection));
    ret->levels = irq->levels;
    g_mutex_unlock(&irq->lock);
}

bool kumo_irq_load(KumoIrq *irq, const KumoIrqState *state, GError **error)
{
    bool ok;

    g_mutex_lock(&irq->lock);
    irq->id = state->id & ID_MASK;
    irq->select = state->select;
    for (unsigned pin = 0; pin < KUMO_IOAPIC_PINS; pin++)
        set_entry(irq, pin, state->redirection[pin]);
    irq->levels = state->levels & ((1u << KUMO_IOAPIC_PINS) - 1);
    ok = kumo_irq_update_routes_locked(irq, error);
    g_mutex_unlock(&irq->lock);
    return ok;
}
