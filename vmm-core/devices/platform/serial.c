/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * COM1: a 16550A UART (National Semiconductor PC16550D datasheet, section 8) at the standard port.
 * Transmission takes no time: the holding register is empty again as soon as it was written. The
 * baud rate is kept and has no effect.
 */
#include "vmm-core/devices/platform/platform.h"

#include <string.h>

#include "vmm-core/base/log.h"
#include "vmm-core/devices/console/backend.h"

enum {
    SERIAL_PORT = 0x3f8,
    SERIAL_PORTS = 8,
    FIFO_BYTES = 16,
    DIVISOR_9600 = 12,

    REG_DATA = 0, /* RBR, THR; with DLAB the divisor's low byte */
    REG_IER = 1,  /* with DLAB the divisor's high byte */
    REG_IIR = 2,  /* FCR when written */
    REG_LCR = 3,
    REG_MCR = 4,
    REG_LSR = 5,
    REG_MSR = 6,
    REG_SCR = 7,

    IER_RDA = 0x01,
    IER_THRE = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,

    IIR_NONE = 0x01,
    IIR_MODEM = 0x00,
    IIR_THRE = 0x02,
    IIR_RDA = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFO = 0xc0,

    FCR_ENABLE = 0x01,
    FCR_CLEAR_RX = 0x02,

    LCR_DLAB = 0x80,

    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,

    LSR_DATA_READY = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_THR_EMPTY = 0x20,
    LSR_IDLE = 0x40,

    MSR_DELTAS = 0x0f,
    MSR_DELTA_CTS = 0x01,
    MSR_TRAILING_RI = 0x04,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
};

typedef struct {
    KumoDevice device;
    KumoConsole *console;

    GMutex lock; /* guards what follows; the interrupt controller and the console are called with it
                    held */
    uint8_t ier, lcr, mcr, msr, scr, fcr;
    uint16_t divisor;
    uint8_t fifo[FIFO_BYTES];
    unsigned fifo_start, fifo_used;
    bool overrun;
    bool thr_pending; /* the transmitter-empty interrupt has not been seen by the guest */
    bool line;        /* of the interrupt */
    bool throttled;   /* the console was told that there is no room */
    bool paused;
} KumoSerial;

static unsigned serial_depth(const KumoSerial *serial)
{
    return serial->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

static unsigned serial_trigger(const KumoSerial *serial)
{
    static const uint8_t levels[] = { 1, 4, 8, 14 };

    return serial->fcr & FCR_ENABLE ? levels[serial->fcr >> 6] : 1;
}

/* The interrupt of the highest priority (datasheet, table IV). */
static uint8_t serial_interrupt_id(const KumoSerial *serial)
{
    if ((serial->ier & IER_LINE) && serial->overrun)
        return IIR_LINE;
    if ((serial->ier & IER_RDA) && serial->fifo_used)
        return serial->fifo_used >= serial_trigger(serial) ? IIR_RDA : IIR_TIMEOUT;
    if ((serial->ier & IER_THRE) && serial->thr_pending)
        return IIR_THRE;
    if ((serial->ier & IER_MODEM) && (serial->msr & MSR_DELTAS))
        return IIR_MODEM;
    return IIR_NONE;
}

static void serial_update_line(KumoSerial *serial)
{
    bool line = serial_interrupt_id(serial) != IIR_NONE;

    if (line == serial->line)
        return;
    serial->line = line;
    kumo_irq_set_level(serial->device.machine->irq, serial->device.machine->layout.serial_gsi,
                       line);
}

static void serial_push(KumoSerial *serial, uint8_t byte)
{
    if (serial->fifo_used >= serial_depth(serial)) {
        serial->overrun = true;
        /* Without a FIFO the new byte overwrites the old one; with it the new one is lost. */
        if (serial_depth(serial) > 1)
            return;
        serial->fifo_used = 0;
    }
    serial->fifo[(serial->fifo_start + serial->fifo_used) % FIFO_BYTES] = byte;
    serial->fifo_used++;
}

/* Calls the console's input back if it waits and there is room. */
static void serial_offer_room(KumoSerial *serial)
{
    if (serial->throttled && !serial->fifo_used && !serial->paused && !(serial->mcr & MCR_LOOP)) {
        serial->throttled = false;
        kumo_console_input_ready(serial->console);
    }
}

static uint8_t serial_read_data(KumoSerial *serial)
{
    uint8_t byte = 0;

    if (serial->fifo_used) {
        byte = serial->fifo[serial->fifo_start];
        serial->fifo_start = (serial->fifo_start + 1) % FIFO_BYTES;
        serial->fifo_used--;
    }
    serial_offer_room(serial);
    return byte;
}

static uint8_t serial_read_register(KumoSerial *serial, unsigned reg)
{
    uint8_t value;

    switch (reg) {
    case REG_DATA:
        return serial->lcr & LCR_DLAB ? (uint8_t)serial->divisor : serial_read_data(serial);
    case REG_IER:
        return serial->lcr & LCR_DLAB ? (uint8_t)(serial->divisor >> 8) : serial->ier;
    case REG_IIR:
        value = serial_interrupt_id(serial);
        if (value == IIR_THRE)
            serial->thr_pending = false;
        return value | (serial->fcr & FCR_ENABLE ? IIR_FIFO : 0);
    case REG_LCR:
        return serial->lcr;
    case REG_MCR:
        return serial->mcr;
    case REG_LSR:
        value = LSR_THR_EMPTY | LSR_IDLE;
        if (serial->fifo_used)
            value |= LSR_DATA_READY;
        if (serial->overrun)
            value |= LSR_OVERRUN;
        serial->overrun = false;
        return value;
    case REG_MSR:
        value = serial->msr;
        serial->msr &= (uint8_t)~MSR_DELTAS;
        return value;
    default:
        return serial->scr;
    }
}

/* Sets the modem's input lines and notes what changed: only the falling edge counts for the ring
 * indicator. */
static void serial_set_modem(KumoSerial *serial, uint8_t lines)
{
    uint8_t changed = (serial->msr ^ lines) & (MSR_CTS | MSR_DSR | MSR_RI | MSR_DCD);

    if (lines & MSR_RI)
        changed &= (uint8_t)~MSR_RI;
    serial->msr = (uint8_t)((serial->msr & MSR_DELTAS) | lines | (changed >> 4));
}

static void serial_write_mcr(KumoSerial *serial, uint8_t value)
{
    serial->mcr = value & 0x1f;
    if (serial->mcr & MCR_LOOP) {
        uint8_t lines = 0;

        if (value & MCR_RTS)
            lines |= MSR_CTS;
        if (value & MCR_DTR)
            lines |= MSR_DSR;
        if (value & MCR_OUT1)
            lines |= MSR_RI;
        if (value & MCR_OUT2)
            lines |= MSR_DCD;
        serial_set_modem(serial, lines);
    } else {
        serial_set_modem(serial, MSR_CTS | MSR_DSR | MSR_DCD);
        serial_offer_room(serial);
    }
}

static void serial_write_fcr(KumoSerial *serial, uint8_t value)
{
    /* Changing the mode empties the FIFO too. */
    if (((value ^ serial->fcr) & FCR_ENABLE) || (value & FCR_CLEAR_RX)) {
        serial->fifo_used = 0;
        serial_offer_room(serial);
    }
    serial->fcr = value & FCR_ENABLE ? value & (0xc0 | FCR_ENABLE) : 0;
}

static void serial_write_data(KumoSerial *serial, uint8_t byte)
{
    if (serial->mcr & MCR_LOOP)
        serial_push(serial, byte);
    else
        kumo_console_write(serial->console, &byte, 1);
    /* Full for a moment, then empty again: an edge-triggered pin needs to see both. */
    serial->thr_pending = false;
    serial_update_line(serial);
    serial->thr_pending = true;
}

static void serial_write_register(KumoSerial *serial, unsigned reg, uint8_t value)
{
    switch (reg) {
    case REG_DATA:
        if (serial->lcr & LCR_DLAB)
            serial->divisor = (uint16_t)((serial->divisor & 0xff00) | value);
        else
            serial_write_data(serial, value);
        break;
    case REG_IER:
        if (serial->lcr & LCR_DLAB) {
            serial->divisor = (uint16_t)((serial->divisor & 0x00ff) | (value << 8));
            break;
        }
        /* The transmitter is empty: enabling its interrupt raises it. */
        if ((value & IER_THRE) && !(serial->ier & IER_THRE))
            serial->thr_pending = true;
        serial->ier = value & 0x0f;
        break;
    case REG_IIR:
        serial_write_fcr(serial, value);
        break;
    case REG_LCR:
        serial->lcr = value;
        break;
    case REG_MCR:
        serial_write_mcr(serial, value);
        break;
    case REG_SCR:
        serial->scr = value;
        break;
    default: /* LSR and MSR cannot be written */
        break;
    }
}

/* The registers are bytes: a wider access is one of each register that it covers. */
static void serial_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    KumoSerial *serial = opaque;

    g_mutex_lock(&serial->lock);
    for (unsigned i = 0; i < size; i++)
        data[i] = offset + i < SERIAL_PORTS ? serial_read_register(serial, offset + i) : 0xff;
    serial_update_line(serial);
    g_mutex_unlock(&serial->lock);
}

static void serial_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    KumoSerial *serial = opaque;

    g_mutex_lock(&serial->lock);
    for (unsigned i = 0; i < size && offset + i < SERIAL_PORTS; i++)
        serial_write_register(serial, offset + i, data[i]);
    serial_update_line(serial);
    g_mutex_unlock(&serial->lock);
}

static const KumoBusOps serial_bus_ops = {
    .read = serial_read,
    .write = serial_write,
};

static size_t serial_can_receive(void *opaque)
{
    KumoSerial *serial = opaque;
    size_t room = 0;

    g_mutex_lock(&serial->lock);
    if (!serial->paused && !(serial->mcr & MCR_LOOP))
        room = serial_depth(serial) - MIN(serial->fifo_used, serial_depth(serial));
    serial->throttled = room == 0;
    g_mutex_unlock(&serial->lock);
    return room;
}

static void serial_receive(void *opaque, const uint8_t *data, size_t len)
{
    KumoSerial *serial = opaque;

    g_mutex_lock(&serial->lock);
    for (size_t i = 0; i < len; i++)
        serial_push(serial, data[i]);
    serial_update_line(serial);
    g_mutex_unlock(&serial->lock);
}

static const KumoConsoleSink serial_sink = {
    .can_receive = serial_can_receive,
    .receive = serial_receive,
};

static bool serial_realize(KumoDevice *device, GError **error)
{
    KumoSerial *serial = (KumoSerial *)device;

    serial->console = kumo_console_set_serial(device->machine->consoles);
    if (!kumo_bus_add(device->machine->pio, SERIAL_PORT, SERIAL_PORTS, &serial_bus_ops, serial,
                      "serial", error))
        return false;
    kumo_console_attach(serial->console, &serial_sink, serial);
    return true;
}

static void serial_unrealize(KumoDevice *device)
{
    KumoSerial *serial = (KumoSerial *)device;

    kumo_console_detach(serial->console);
    kumo_bus_remove(device->machine->pio, SERIAL_PORT, serial);
    kumo_bus_synchronize(device->machine->pio);
}

static void serial_free(KumoDevice *device)
{
    KumoSerial *serial = (KumoSerial *)device;

    g_mutex_clear(&serial->lock);
    g_free(serial);
}

static void serial_set_paused(KumoSerial *serial, bool paused)
{
    g_mutex_lock(&serial->lock);
    serial->paused = paused;
    /* What came meanwhile waits in the console, with or without its having asked. */
    if (!paused) {
        serial->throttled = false;
        kumo_console_input_ready(serial->console);
    }
    g_mutex_unlock(&serial->lock);
}

static bool serial_pause(KumoDevice *device, GError **error)
{
    serial_set_paused((KumoSerial *)device, true);
    return true;
}

static void serial_resume(KumoDevice *device)
{
    serial_set_paused((KumoSerial *)device, false);
}

typedef struct {
    uint8_t ier, lcr, mcr, msr, scr, fcr;
    uint16_t divisor;
    uint8_t *input; /* received and not yet read */
    size_t input_len;
    bool overrun, thr_pending, line;
} SerialState;

static const KumoStateField serial_fields[] = {
    { KUMO_STATE_ROW(U8, SerialState, ier) },
    { KUMO_STATE_ROW(U8, SerialState, lcr) },
    { KUMO_STATE_ROW(U8, SerialState, mcr) },
    { KUMO_STATE_ROW(U8, SerialState, msr) },
    { KUMO_STATE_ROW(U8, SerialState, scr) },
    { KUMO_STATE_ROW(U8, SerialState, fcr) },
    { KUMO_STATE_ROW(U16, SerialState, divisor) },
    { KUMO_STATE_ROW(BLOB, SerialState, input), .count_offset = offsetof(SerialState, input_len),
      .max = FIFO_BYTES },
    { KUMO_STATE_ROW(BOOL, SerialState, overrun) },
    { KUMO_STATE_ROW(BOOL, SerialState, thr_pending) },
    { KUMO_STATE_ROW(BOOL, SerialState, line) },
};

static const KumoStateTable serial_table = {
    .name = "serial",
    .version = 1,
    .fields = serial_fields,
    .n_fields = G_N_ELEMENTS(serial_fields),
    .size = sizeof(SerialState),
};

static void serial_save(KumoDevice *device, void *opaque)
{
    KumoSerial *serial = (KumoSerial *)device;
    SerialState *state = opaque;

    g_mutex_lock(&serial->lock);
    *state = (SerialState){
        .ier = serial->ier,
        .lcr = serial->lcr,
        .mcr = serial->mcr,
        .msr = serial->msr,
        .scr = serial->scr,
        .fcr = serial->fcr,
        .divisor = serial->divisor,
        .input = g_malloc(FIFO_BYTES),
        .input_len = serial->fifo_used,
        .overrun = serial->overrun,
        .thr_pending = serial->thr_pending,
        .line = serial->line,
    };
    for (unsigned i = 0; i < serial->fifo_used; i++)
        state->input[i] = serial->fifo[(serial->fifo_start + i) % FIFO_BYTES];
    g_mutex_unlock(&serial->lock);
}

static bool serial_load(KumoDevice *device, const void *opaque, GError **error)
{
    KumoSerial *serial = (KumoSerial *)device;
    const SerialState *state = opaque;

    g_mutex_lock(&serial->lock);
    serial->ier = state->ier & 0x0f;
    serial->lcr = state->lcr;
    serial->mcr = state->mcr & 0x1f;
    serial->msr = state->msr;
    serial->scr = state->scr;
    serial->fcr = state->fcr & FCR_ENABLE ? state->fcr & (0xc0 | FCR_ENABLE) : 0;
    serial->divisor = state->divisor;
    serial->fifo_start = 0;
    serial->fifo_used = (unsigned)state->input_len;
    memcpy(serial->fifo, state->input, state->input_len);
    serial->overrun = state->overrun;
    serial->thr_pending = state->thr_pending;
    serial->line = state->line; /* the interrupt controller knows it from its own state */
    g_mutex_unlock(&serial->lock);
    return true;
}

static const KumoDeviceState serial_state = {
    .table = &serial_table,
    .save = serial_save,
    .load = serial_load,
};

static void serial_aml(KumoDevice *device, KumoAml *aml)
{
    KumoAmlMark com = kumo_aml_open_device(aml, "COM1");
    KumoAmlMark resources;

    kumo_aml_name(aml, "_HID");
    kumo_aml_eisaid(aml, "PNP0501");
    kumo_aml_name(aml, "_UID");
    kumo_aml_integer(aml, 0);
    kumo_aml_name(aml, "_DDN");
    kumo_aml_string(aml, "COM1");
    kumo_aml_name(aml, "_CRS");
    resources = kumo_aml_open_resources(aml);
    kumo_aml_res_irq(aml, device->machine->layout.serial_gsi, false, false, false);
    kumo_aml_res_io(aml, SERIAL_PORT, SERIAL_PORT, 1, SERIAL_PORTS);
    kumo_aml_close_resources(aml, resources);
    kumo_aml_close(aml, com);
}

static json_t *serial_counters(KumoDevice *device)
{
    return kumo_console_counters(((KumoSerial *)device)->console);
}

static void serial_report(KumoDevice *device, KumoVmConfig *config)
{
    const char *path = kumo_console_pty_path(((KumoSerial *)device)->console);

    if (path) {
        g_free(config->serial.file);
        config->serial.file = g_strdup(path);
    }
}

static const KumoDeviceOps serial_ops = {
    .type = "serial",
    .realize = serial_realize,
    .unrealize = serial_unrealize,
    .free = serial_free,
    .pause = serial_pause,
    .resume = serial_resume,
    .aml = serial_aml,
    .counters = serial_counters,
    .report = serial_report,
    .state = &serial_state,
};

static bool serial_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    KumoSerial *serial;

    if (config->serial.mode == KUMO_CONSOLE_OFF || !machine->pio)
        return true;
    serial = g_new0(KumoSerial, 1);
    kumo_device_init(&serial->device, &serial_ops, machine, "__serial");
    g_mutex_init(&serial->lock);
    serial->divisor = DIVISOR_9600;
    serial->msr = MSR_CTS | MSR_DSR | MSR_DCD;
    return kumo_device_add(&serial->device, error);
}

const KumoDeviceType kumo_device_type_serial = {
    .name = "serial",
    .create = serial_create,
};
