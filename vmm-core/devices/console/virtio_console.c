/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * virtio-console (Virtio 1.2, 5.3) with one port. Both queues are served on the thread of the
 * console's other side, so input and output need no lock; without another side, on the machine's
 * slow loop.
 */
#include "vmm-core/devices/console/virtio_console.h"

#include <linux/virtio_console.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>

#include "vmm-core/base/fd.h"
#include "vmm-core/devices/console/backend.h"
#include "vmm-core/devices/virtio/virtio_pci.h"

enum {
    QUEUE_RECEIVE = 0,
    QUEUE_TRANSMIT = 1,
    N_QUEUES = 2,
    QUEUE_SIZE = 256,
    BATCH = 16, /* chains in a row: the other console waits on the same thread */
    /* What is written of one chain: drivers send pages, a hostile one the whole of memory many
       times. */
    CHAIN_MAX_BYTES = 1 << 20,
    INPUT_BYTES = 1024,
    CLASS_OTHER = 0xff,
};

typedef struct {
    KumoVirtio virtio;
    KumoConsole *console; /* NULL: output is dropped */
    KumoLoop *loop;
    atomic_uint size; /* columns, and rows << 16 */

    /* The loop's thread. */
    KumoLoopSource *kicks[N_QUEUES]; /* set while the queues may be used */
    uint8_t input[INPUT_BYTES];      /* taken from the console, not yet the guest's */
    size_t input_from, input_to;
    struct iovec iov[QUEUE_SIZE + 2];
} VirtioConsole;

static bool console_live(const VirtioConsole *con)
{
    return con->kicks[QUEUE_RECEIVE] != NULL;
}

/* Host to guest. */

static void pump_input(VirtioConsole *con)
{
    KumoVirtq *queue = &con->virtio.queues[QUEUE_RECEIVE];
    bool pushed = false;

    while (con->input_from < con->input_to && !queue->broken) {
        KumoVirtqChain chain = { .iov = con->iov, .max_iov = G_N_ELEMENTS(con->iov) };
        KumoVirtqResult result = kumo_virtq_pop(queue, &chain);
        size_t written = 0;

        if (result == KUMO_VIRTQ_EMPTY)
            break;
        if (result == KUMO_VIRTQ_CHAIN)
            written = kumo_virtq_chain_write(queue, &chain, 0, con->input + con->input_from,
                                             con->input_to - con->input_from);
        if (written == 0) {
            queue->broken = true;
            kumo_virtio_broken(&con->virtio, "a buffer of the receive queue cannot be written to");
            break;
        }
        con->input_from += written;
        kumo_virtq_push(queue, chain.head, (uint32_t)written);
        pushed = true;
    }
    if (pushed)
        kumo_virtq_notify(queue);
}

static size_t input_can_receive(void *opaque)
{
    VirtioConsole *con = opaque;
    KumoVirtq *queue = &con->virtio.queues[QUEUE_RECEIVE];

    if (!console_live(con) || con->input_from < con->input_to || queue->broken ||
        !kumo_virtq_has_work(queue))
        return 0;
    return sizeof(con->input);
}

static void input_receive(void *opaque, const uint8_t *data, size_t len)
{
    VirtioConsole *con = opaque;

    memcpy(con->input, data, len);
    con->input_from = 0;
    con->input_to = len;
    pump_input(con);
}

static const KumoConsoleSink input_sink = {
    .can_receive = input_can_receive,
    .receive = input_receive,
};

static void receive_kicked(void *opaque, uint32_t events)
{
    VirtioConsole *con = opaque;

    kumo_eventfd_drain(con->virtio.queues[QUEUE_RECEIVE].kick_fd);
    pump_input(con);
    if (con->input_from == con->input_to)
        kumo_console_input_ready(con->console);
}

/* Guest to host. */

static void write_chain(VirtioConsole *con, const KumoVirtqChain *chain)
{
    size_t left = CHAIN_MAX_BYTES;

    for (unsigned i = 0; i < chain->n_readable && left > 0; i++) {
        size_t len = MIN(chain->iov[i].iov_len, left);

        kumo_console_write(con->console, chain->iov[i].iov_base, len);
        left -= len;
    }
}

static void transmit_kicked(void *opaque, uint32_t events)
{
    VirtioConsole *con = opaque;
    KumoVirtq *queue = &con->virtio.queues[QUEUE_TRANSMIT];
    unsigned served = 0;

    kumo_eventfd_drain(queue->kick_fd);
    while (served < BATCH && !queue->broken) {
        KumoVirtqChain chain = { .iov = con->iov, .max_iov = G_N_ELEMENTS(con->iov) };
        KumoVirtqResult result = kumo_virtq_pop(queue, &chain);

        if (result == KUMO_VIRTQ_EMPTY)
            break;
        if (result == KUMO_VIRTQ_BROKEN) {
            queue->broken = true;
            kumo_virtio_broken(&con->virtio, "the transmit queue is broken");
            break;
        }
        write_chain(con, &chain);
        kumo_virtq_push(queue, chain.head, 0);
        served++;
    }
    if (served)
        kumo_virtq_notify(queue);
    if (served == BATCH)
        kumo_eventfd_signal(queue->kick_fd);
}

/* The device. */

static void console_config_read(KumoVirtio *virtio, uint64_t offset, uint8_t *data, unsigned size)
{
    VirtioConsole *con = (VirtioConsole *)virtio;
    unsigned now = atomic_load(&con->size);
    struct virtio_console_config config = {
        .cols = (uint16_t)now,
        .rows = (uint16_t)(now >> 16),
        .max_nr_ports = 1,
    };

    kumo_virtio_config_copy(&config, sizeof(config), offset, data, size);
}

static void console_stop(void *opaque)
{
    VirtioConsole *con = opaque;

    for (unsigned i = 0; i < N_QUEUES; i++)
        g_clear_pointer(&con->kicks[i], kumo_loop_remove);
}

typedef struct {
    VirtioConsole *con;
    GError **error;
} StartCall;

static void console_start(void *opaque)
{
    static const KumoLoopFdFunc kicked[N_QUEUES] = { receive_kicked, transmit_kicked };
    StartCall *call = opaque;
    VirtioConsole *con = call->con;

    for (unsigned i = 0; i < N_QUEUES; i++) {
        con->kicks[i] = kumo_loop_add_fd(con->loop, con->virtio.queues[i].kick_fd, EPOLLIN,
                                         kicked[i], con, call->error);
        if (!con->kicks[i]) {
            console_stop(con);
            return;
        }
        /* Kicks of before, and what was left over at a pause. */
        kumo_eventfd_signal(con->virtio.queues[i].kick_fd);
    }
}

static bool console_activate(KumoVirtio *virtio, GError **error)
{
    VirtioConsole *con = (VirtioConsole *)virtio;
    StartCall call = { .con = con, .error = error };

    kumo_loop_call(con->loop, console_start, &call);
    return console_live(con);
}

/* Input that the guest has not taken stays for the next driver: firmware hands over to a kernel
 * this way. */
static void console_deactivate(KumoVirtio *virtio)
{
    VirtioConsole *con = (VirtioConsole *)virtio;

    kumo_loop_call(con->loop, console_stop, con);
}

static bool console_pause(KumoVirtio *virtio, GError **error)
{
    console_deactivate(virtio);
    return true;
}

static void console_resume(KumoVirtio *virtio)
{
    g_autoptr(GError) error = NULL;

    if (!console_activate(virtio, &error))
        kumo_virtio_broken(virtio, error->message);
}

static const KumoVirtioOps console_virtio_ops = {
    .config_read = console_config_read,
    .activate = console_activate,
    .deactivate = console_deactivate,
    .pause = console_pause,
    .resume = console_resume,
};

/* Returns: TRUE if the size is another than before. */
static bool console_update_size(VirtioConsole *con)
{
    uint16_t columns = 0, rows = 0;
    unsigned now;

    if (!kumo_console_size(con->console, &columns, &rows))
        columns = rows = 0;
    now = columns | (unsigned)rows << 16;
    return atomic_exchange(&con->size, now) != now;
}

static bool console_realize(KumoDevice *device, GError **error)
{
    static const uint16_t queue_sizes[N_QUEUES] = { QUEUE_SIZE, QUEUE_SIZE };
    static const KumoVirtioPciParams params = {
        .type = KUMO_VIRTIO_CONSOLE,
        .class_code = CLASS_OTHER,
        .subclass = CLASS_OTHER,
        .offered = 1ULL << VIRTIO_CONSOLE_F_SIZE,
        .n_queues = N_QUEUES,
        .queue_sizes = queue_sizes,
    };
    VirtioConsole *con = (VirtioConsole *)device;
    KumoMachine *machine = device->machine;

    con->console = kumo_console_set_console(machine->consoles);
    con->loop =
        con->console ? kumo_console_loop(con->console) : kumo_machine_slow_loop(machine, error);
    if (!con->loop)
        return false;
    console_update_size(con);
    if (!kumo_virtio_pci_realize(&con->virtio, &machine->config->console.pci, &params, error))
        return false;
    kumo_console_attach(con->console, &input_sink, con);
    return true;
}

static void console_unrealize(KumoDevice *device)
{
    VirtioConsole *con = (VirtioConsole *)device;

    kumo_console_detach(con->console);
    kumo_virtio_pci_unrealize(&con->virtio);
}

static void console_free(KumoDevice *device)
{
    g_free(device);
}

static json_t *console_counters(KumoDevice *device)
{
    return kumo_console_counters(((VirtioConsole *)device)->console);
}

static void console_report(KumoDevice *device, KumoVmConfig *config)
{
    const char *path = kumo_console_pty_path(((VirtioConsole *)device)->console);

    if (path) {
        g_free(config->console.file);
        config->console.file = g_strdup(path);
    }
}

static void console_resized(KumoDevice *device)
{
    VirtioConsole *con = (VirtioConsole *)device;

    if (console_update_size(con) && con->virtio.active)
        con->virtio.notify_config(&con->virtio);
}

typedef struct {
    KumoVirtioPciState transport;
    uint8_t *input; /* received and not yet put into the guest's buffers */
    size_t input_len;
} ConsoleState;

static const KumoStateField console_fields[] = {
    { KUMO_STATE_ROW(TABLE, ConsoleState, transport), .table = &kumo_virtio_pci_state_table },
    { KUMO_STATE_ROW(BLOB, ConsoleState, input), .count_offset = offsetof(ConsoleState, input_len),
      .max = sizeof(((VirtioConsole *)NULL)->input) },
};

static const KumoStateTable console_table = {
    .name = "virtio-console",
    .version = 1,
    .fields = console_fields,
    .n_fields = G_N_ELEMENTS(console_fields),
    .size = sizeof(ConsoleState),
};

typedef struct {
    VirtioConsole *con;
    ConsoleState *state;
} StateCall;

/* The input belongs to the loop's thread, where more of it may arrive even now. */
static void console_save_input(void *opaque)
{
    StateCall *call = opaque;
    const VirtioConsole *con = call->con;

    call->state->input_len = con->input_to - con->input_from;
    call->state->input = g_malloc(sizeof(con->input));
    memcpy(call->state->input, con->input + con->input_from, call->state->input_len);
}

static void console_load_input(void *opaque)
{
    StateCall *call = opaque;
    VirtioConsole *con = call->con;

    memcpy(con->input, call->state->input, call->state->input_len);
    con->input_from = 0;
    con->input_to = call->state->input_len;
}

static void console_save(KumoDevice *device, void *opaque)
{
    StateCall call = { (VirtioConsole *)device, opaque };

    kumo_virtio_pci_save(&call.con->virtio, &call.state->transport);
    kumo_loop_call(call.con->loop, console_save_input, &call);
}

static bool console_load(KumoDevice *device, const void *opaque, GError **error)
{
    StateCall call = { (VirtioConsole *)device, (ConsoleState *)opaque };

    if (!kumo_virtio_pci_load(&call.con->virtio, &call.state->transport, error))
        return false;
    kumo_loop_call(call.con->loop, console_load_input, &call);
    return true;
}

static const KumoDeviceState console_state = {
    .table = &console_table,
    .save = console_save,
    .load = console_load,
};

static const KumoDeviceOps console_ops = {
    .type = "virtio-console",
    .realize = console_realize,
    .unrealize = console_unrealize,
    .free = console_free,
    .pause = kumo_virtio_pci_pause,
    .resume = kumo_virtio_pci_resume,
    .pci_bdf = kumo_virtio_pci_bdf,
    .describe = kumo_virtio_pci_describe,
    .counters = console_counters,
    .report = console_report,
    .console_resized = console_resized,
    .state = &console_state,
};

static bool console_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    VirtioConsole *con;

    if (config->console.mode == KUMO_CONSOLE_OFF)
        return true;
    con = g_new0(VirtioConsole, 1);
    con->virtio.ops = &console_virtio_ops;
    kumo_device_init(&con->virtio.device, &console_ops, machine,
                     config->console.pci.id ? config->console.pci.id : "__console");
    return kumo_device_add(&con->virtio.device, error);
}

const KumoDeviceType kumo_device_type_virtio_console = {
    .name = "virtio-console",
    .create = console_create,
};
