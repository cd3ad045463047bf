/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The real-time clock's registers and the CMOS RAM behind ports 0x70 and 0x71 (Motorola MC146818A):
 * the host's UTC, or so many seconds beside it, in BCD and 24 hours, read-only; the memory sizes
 * firmware looks for; and a reset. No alarm and no interrupts.
 */
#include "vmm-core/devices/platform/platform.h"

#include <string.h>
#include <time.h>

#define SIXTEEN_MIB (16ULL << 20)
#define FOUR_GIB    (4ULL << 30)

enum {
    CMOS_PORT = 0x70,
    CMOS_PORTS = 2,
    CMOS_BYTES = 128,

    REG_SECONDS = 0x00,
    REG_MINUTES = 0x02,
    REG_HOURS = 0x04,
    REG_WEEKDAY = 0x06, /* Sunday is 1 */
    REG_DAY = 0x07,
    REG_MONTH = 0x08,
    REG_YEAR = 0x09,
    REG_A = 0x0a,
    REG_B = 0x0b,
    REG_D = 0x0d,
    REG_CENTURY = 0x32,
    REG_LOW_MEMORY = 0x34,  /* from 16 MiB to 4 GiB, in 64 KiB: two bytes */
    REG_HIGH_MEMORY = 0x5b, /* from 4 GiB, in 64 KiB: three bytes */

    REG_A_UPDATE = 0x80,
    REG_A_DIVIDER = 0x26, /* 32768 Hz, 1024 Hz periodic rate */
    REG_B_24_HOURS = 0x02,
    REG_D_VALID = 0x80,

    /* Writing 0 to the shutdown status with the NMI bit set in the index resets the machine. */
    RESET_INDEX = 0x8f,
    UPDATE_NS = 244000, /* how long before a second's end the update bit is up */
};

typedef struct {
    KumoDevice device;
    int32_t offset_s; /* ahead of UTC */
    GMutex lock;      /* guards what follows */
    uint8_t index;
    uint8_t ram[CMOS_BYTES];
} KumoCmos;

static uint8_t to_bcd(unsigned value)
{
    return (uint8_t)(value / 10 % 10 << 4 | value % 10);
}

typedef struct {
    unsigned year, month, day, weekday;
} CivilDate;

/* Not gmtime_r(): it may read the time zone's file, which a vCPU thread must not. Days since
 * 1970-01-01. */
static CivilDate civil_from_days(int64_t days)
{
    /* Years that begin in March put the leap day last; 719468 days lie between 0000-03-01 and 1970.
     */
    int64_t since = days + 719468;
    int64_t era = since / 146097;
    unsigned day_of_era = (unsigned)(since % 146097);
    unsigned year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    unsigned day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned march_month = (5 * day_of_year + 2) / 153;
    CivilDate date;

    date.day = day_of_year - (153 * march_month + 2) / 5 + 1;
    date.month = march_month < 10 ? march_month + 3 : march_month - 9;
    date.year = (unsigned)(year_of_era + era * 400 + (date.month <= 2));
    date.weekday = (unsigned)((days + 4) % 7) + 1; /* 1970-01-01 was a Thursday */
    return date;
}

static uint8_t cmos_read_ram(const KumoCmos *cmos, unsigned reg)
{
    struct timespec now;
    unsigned second_of_day;
    CivilDate date;

    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec += cmos->offset_s;
    if (now.tv_sec < 0)
        now.tv_sec = 0;
    second_of_day = (unsigned)(now.tv_sec % 86400);
    date = civil_from_days(now.tv_sec / 86400);
    switch (reg) {
    case REG_SECONDS:
        return to_bcd(second_of_day % 60);
    case REG_MINUTES:
        return to_bcd(second_of_day / 60 % 60);
    case REG_HOURS:
        return to_bcd(second_of_day / 3600);
    case REG_WEEKDAY:
        return to_bcd(date.weekday);
    case REG_DAY:
        return to_bcd(date.day);
    case REG_MONTH:
        return to_bcd(date.month);
    case REG_YEAR:
        return to_bcd(date.year % 100);
    case REG_CENTURY:
        return to_bcd(date.year / 100);
    case REG_A:
        return REG_A_DIVIDER | (now.tv_nsec >= 1000000000 - UPDATE_NS ? REG_A_UPDATE : 0);
    case REG_B:
        return REG_B_24_HOURS;
    case REG_D:
        return REG_D_VALID;
    default:
        return cmos->ram[reg];
    }
}

static void cmos_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    KumoCmos *cmos = opaque;

    g_mutex_lock(&cmos->lock);
    for (unsigned i = 0; i < size; i++)
        data[i] = offset + i == 0 ? cmos->index : cmos_read_ram(cmos, cmos->index & 0x7f);
    g_mutex_unlock(&cmos->lock);
}

static void cmos_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    KumoCmos *cmos = opaque;
    bool reset = false;

    g_mutex_lock(&cmos->lock);
    for (unsigned i = 0; i < size; i++) {
        if (offset + i == 0)
            cmos->index = data[i];
        else if (cmos->index == RESET_INDEX && data[i] == 0)
            reset = true;
        else
            cmos->ram[cmos->index & 0x7f] = data[i];
    }
    g_mutex_unlock(&cmos->lock);
    if (reset)
        kumo_machine_request(cmos->device.machine, KUMO_MACHINE_REQUEST_RESET);
}

static const KumoBusOps cmos_bus_ops = {
    .read = cmos_read,
    .write = cmos_write,
};

static bool cmos_realize(KumoDevice *device, GError **error)
{
    return kumo_bus_add(device->machine->pio, CMOS_PORT, CMOS_PORTS, &cmos_bus_ops, device, "cmos",
                        error);
}

static void cmos_unrealize(KumoDevice *device)
{
    kumo_bus_remove(device->machine->pio, CMOS_PORT, device);
    kumo_bus_synchronize(device->machine->pio);
}

static void cmos_free(KumoDevice *device)
{
    KumoCmos *cmos = (KumoCmos *)device;

    g_mutex_clear(&cmos->lock);
    g_free(cmos);
}

typedef struct {
    uint8_t index;
    uint8_t ram[CMOS_BYTES];
} CmosState;

static const KumoStateField cmos_fields[] = {
    { KUMO_STATE_ROW(U8, CmosState, index) },
    { KUMO_STATE_ROW(BYTES, CmosState, ram), .count = CMOS_BYTES },
};

static const KumoStateTable cmos_table = {
    .name = "cmos",
    .version = 1,
    .fields = cmos_fields,
    .n_fields = G_N_ELEMENTS(cmos_fields),
    .size = sizeof(CmosState),
};

static void cmos_save(KumoDevice *device, void *opaque)
{
    KumoCmos *cmos = (KumoCmos *)device;
    CmosState *state = opaque;

    g_mutex_lock(&cmos->lock);
    state->index = cmos->index;
    memcpy(state->ram, cmos->ram, CMOS_BYTES);
    g_mutex_unlock(&cmos->lock);
}

static bool cmos_load(KumoDevice *device, const void *opaque, GError **error)
{
    KumoCmos *cmos = (KumoCmos *)device;
    const CmosState *state = opaque;

    g_mutex_lock(&cmos->lock);
    cmos->index = state->index;
    memcpy(cmos->ram, state->ram, CMOS_BYTES);
    g_mutex_unlock(&cmos->lock);
    return true;
}

static const KumoDeviceState cmos_state = {
    .table = &cmos_table,
    .save = cmos_save,
    .load = cmos_load,
};

static const KumoDeviceOps cmos_ops = {
    .type = "cmos",
    .realize = cmos_realize,
    .unrealize = cmos_unrealize,
    .free = cmos_free,
    .state = &cmos_state,
};

static void cmos_set_memory(KumoCmos *cmos, const KumoMemory *memory)
{
    uint64_t low_end = 0, high_bytes = 0;

    for (unsigned i = 0; memory && i < memory->n_regions; i++) {
        const KumoMemRegion *region = &memory->regions[i];

        if (region->hotplug)
            continue;
        if (region->gpa < FOUR_GIB)
            low_end = region->gpa + region->size_bytes;
        else
            high_bytes += region->size_bytes;
    }
    low_end = low_end > SIXTEEN_MIB ? low_end - SIXTEEN_MIB : 0;
    low_end = MIN(low_end >> 16, 0xffff);
    high_bytes = MIN(high_bytes >> 16, 0xffffff);
    for (unsigned i = 0; i < 2; i++)
        cmos->ram[REG_LOW_MEMORY + i] = (uint8_t)(low_end >> (8 * i));
    for (unsigned i = 0; i < 3; i++)
        cmos->ram[REG_HIGH_MEMORY + i] = (uint8_t)(high_bytes >> (8 * i));
}

static bool cmos_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    KumoCmos *cmos;

    if (!machine->pio)
        return true;
    cmos = g_new0(KumoCmos, 1);
    kumo_device_init(&cmos->device, &cmos_ops, machine, "__cmos");
    g_mutex_init(&cmos->lock);
    if (config)
        cmos->offset_s = config->platform.rtc_offset_s;
    cmos_set_memory(cmos, machine->memory);
    return kumo_device_add(&cmos->device, error);
}

const KumoDeviceType kumo_device_type_cmos = {
    .name = "cmos",
    .create = cmos_create,
};
