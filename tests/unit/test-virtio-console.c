/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "tests/fakes/virtio_driver.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/devices/console/backend.h"
#include "vmm-core/devices/console/virtio_console.h"

enum { RECEIVE = 0, TRANSMIT = 1, WAIT_MS = 5000, BUFFER_BYTES = 64 };

typedef struct {
    KumoFakeDriver *driver;
    KumoConsoleSet *consoles;
    KumoDevice *device;
    int host_fd; /* the pty's slave */
    uint64_t buffer;
} Fixture;

static void create(Fixture *fixture)
{
    g_autoptr(GError) error = NULL;

    fixture->driver->machine.consoles = fixture->consoles;
    kumo_device_type_virtio_console.create(&fixture->driver->machine, fixture->driver->config,
                                           &error);
    g_assert_no_error(error);
    fixture->device = kumo_device_find(&fixture->driver->machine, "__console");
    g_assert_nonnull(fixture->device);
}

static void set_up(Fixture *fixture, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    KumoVmConfig *config;

    fixture->driver = kumo_fake_driver_new();
    config = fixture->driver->config;
    config->serial.mode = KUMO_CONSOLE_OFF;
    config->console.mode = KUMO_CONSOLE_PTY;
    fixture->consoles = kumo_console_set_open(config, &error);
    g_assert_no_error(error);
    fixture->host_fd = open(config->console.file, O_RDWR | O_NOCTTY | O_CLOEXEC);
    g_assert_cmpint(fixture->host_fd, >=, 0);
    create(fixture);
    fixture->buffer = kumo_fake_driver_alloc(fixture->driver, 64 * 1024);
}

static void tear_down(Fixture *fixture, gconstpointer unused)
{
    kumo_fake_driver_free(fixture->driver);
    kumo_console_set_close(fixture->consoles);
    close(fixture->host_fd);
}

static void expect_host(Fixture *fixture, const char *text)
{
    size_t len = strlen(text), got = 0;
    g_autofree char *buf = g_malloc0(len + 1);

    while (got < len) {
        struct pollfd ready = { .fd = fixture->host_fd, .events = POLLIN };
        ssize_t n;

        g_assert_cmpint(poll(&ready, 1, WAIT_MS), ==, 1);
        n = read(fixture->host_fd, buf + got, len - got);
        g_assert_cmpint(n, >, 0);
        got += (size_t)n;
    }
    g_assert_cmpstr(buf, ==, text);
}

static void guest_write(Fixture *fixture, const char *text)
{
    KumoFakeBuf bufs[2] = {
        { .gpa = fixture->buffer, .len = 1 },
        { .gpa = fixture->buffer + 1, .len = (uint32_t)strlen(text) - 1 },
    };
    uint16_t head, used;
    uint32_t len;

    memcpy(kumo_fake_driver_ptr(fixture->driver, fixture->buffer), text, strlen(text));
    head = kumo_fake_driver_add(fixture->driver, TRANSMIT, bufs, 2);
    kumo_fake_driver_kick(fixture->driver, TRANSMIT);
    g_assert_true(kumo_fake_driver_wait(fixture->driver, TRANSMIT, &used, &len));
    g_assert_cmpuint(used, ==, head);
    g_assert_cmpuint(len, ==, 0);
}

static uint64_t guest_add_receive(Fixture *fixture, unsigned index)
{
    KumoFakeBuf buf = { .gpa = fixture->buffer + 4096 + index * BUFFER_BYTES,
                        .len = BUFFER_BYTES,
                        .writable = true };

    kumo_fake_driver_add(fixture->driver, RECEIVE, &buf, 1);
    return buf.gpa;
}

static void test_identity(Fixture *fixture, gconstpointer unused)
{
    g_assert_cmpuint(fixture->driver->params.type, ==, 3);
    g_assert_cmpuint(fixture->driver->params.n_queues, ==, 2);
    g_assert_cmpuint(fixture->driver->params.queue_sizes[0], ==, 256);
    g_assert_cmpuint(fixture->driver->params.queue_sizes[1], ==, 256);
    g_assert_cmphex(fixture->driver->params.offered, ==, 1);
}

static void test_size(Fixture *fixture, gconstpointer unused)
{
    KumoVirtio *virtio = fixture->driver->virtio;
    struct winsize size = { .ws_col = 97, .ws_row = 31 };
    struct virtio_console_config config;
    uint8_t beyond[8];

    virtio->ops->config_read(virtio, 0, (uint8_t *)&config, sizeof(config));
    g_assert_cmpuint(config.cols, ==, 0);
    g_assert_cmpuint(config.max_nr_ports, ==, 1);
    kumo_fake_driver_start(fixture->driver, ~0ULL, 256);
    g_assert_cmpint(ioctl(fixture->host_fd, TIOCSWINSZ, &size), ==, 0);
    fixture->device->ops->console_resized(fixture->device);
    g_assert_cmpint(fixture->driver->config_changes, ==, 1);
    virtio->ops->config_read(virtio, 0, (uint8_t *)&config, sizeof(config));
    g_assert_cmpuint(config.cols, ==, 97);
    g_assert_cmpuint(config.rows, ==, 31);
    fixture->device->ops->console_resized(fixture->device);
    g_assert_cmpint(fixture->driver->config_changes, ==, 1);
    memset(beyond, 0xff, sizeof(beyond));
    virtio->ops->config_read(virtio, 4000, beyond, 8);
    g_assert_cmpuint(beyond[0] | beyond[7], ==, 0);
}

static void test_output(Fixture *fixture, gconstpointer unused)
{
    kumo_fake_driver_start(fixture->driver, ~0ULL, 256);
    guest_write(fixture, "hello from the guest\r\n");
    expect_host(fixture, "hello from the guest\r\n");
    /* More chains than one round takes, with one kick. */
    for (unsigned i = 0; i < 100; i++) {
        KumoFakeBuf buf = { .gpa = fixture->buffer, .len = 1 };

        kumo_fake_driver_add(fixture->driver, TRANSMIT, &buf, 1);
    }
    kumo_fake_driver_kick(fixture->driver, TRANSMIT);
    for (unsigned i = 0; i < 100; i++) {
        uint16_t head;
        uint32_t len;

        g_assert_true(kumo_fake_driver_wait(fixture->driver, TRANSMIT, &head, &len));
        expect_host(fixture, "h");
    }
}

static void test_input(Fixture *fixture, gconstpointer unused)
{
    KumoFakeDriver *driver = fixture->driver;
    uint16_t head;
    uint32_t len;
    uint64_t first, second;
    char text[BUFFER_BYTES + 10];

    for (unsigned i = 0; i < sizeof(text); i++)
        text[i] = (char)('a' + i % 26);
    /* Typed before there is a driver, then with no buffer: it waits. */
    g_assert_true(kumo_write_full(fixture->host_fd, text, sizeof(text)));
    kumo_fake_driver_start(driver, ~0ULL, 256);
    g_usleep(10000);
    first = guest_add_receive(fixture, 0);
    kumo_fake_driver_kick(driver, RECEIVE);
    g_assert_true(kumo_fake_driver_wait(driver, RECEIVE, &head, &len));
    g_assert_cmpuint(len, ==, BUFFER_BYTES);
    g_assert_cmpmem(kumo_fake_driver_ptr(driver, first), len, text, BUFFER_BYTES);
    /* The rest does not get lost, not by a pause either. */
    g_assert_true(fixture->device->ops->pause(fixture->device, NULL));
    second = guest_add_receive(fixture, 1);
    kumo_fake_driver_kick(driver, RECEIVE);
    g_usleep(10000);
    g_assert_false(kumo_fake_driver_take(driver, RECEIVE, &head, &len));
    fixture->device->ops->resume(fixture->device);
    g_assert_true(kumo_fake_driver_wait(driver, RECEIVE, &head, &len));
    g_assert_cmpuint(len, ==, 10);
    g_assert_cmpmem(kumo_fake_driver_ptr(driver, second), len, text + BUFFER_BYTES, 10);
    /* A buffer is there first, then somebody types. */
    first = guest_add_receive(fixture, 2);
    kumo_fake_driver_kick(driver, RECEIVE);
    g_assert_true(kumo_write_full(fixture->host_fd, "x", 1));
    g_assert_true(kumo_fake_driver_wait(driver, RECEIVE, &head, &len));
    g_assert_cmpmem(kumo_fake_driver_ptr(driver, first), len, "x", 1);
}

/* The guest reboots: a new machine and device, the same pty and the same reader. */
static void test_reboot(Fixture *fixture, gconstpointer unused)
{
    kumo_fake_driver_start(fixture->driver, ~0ULL, 256);
    guest_write(fixture, "one ");
    kumo_fake_driver_free(fixture->driver);
    fixture->driver = kumo_fake_driver_new();
    fixture->driver->config->console.mode = KUMO_CONSOLE_PTY;
    create(fixture);
    fixture->device->ops->report(fixture->device, fixture->driver->config);
    g_assert_true(g_str_has_prefix(fixture->driver->config->console.file, "/dev/pts/"));
    fixture->buffer = kumo_fake_driver_alloc(fixture->driver, 64 * 1024);
    kumo_fake_driver_start(fixture->driver, ~0ULL, 256);
    guest_write(fixture, "two");
    expect_host(fixture, "one two");
    /* A driver's reset in between changes nothing. */
    kumo_fake_driver_stop(fixture->driver);
    kumo_fake_driver_start(fixture->driver, ~0ULL, 64);
    guest_write(fixture, "three");
    expect_host(fixture, "three");
}

static void test_broken_receive(Fixture *fixture, gconstpointer unused)
{
    KumoFakeBuf readable = { .gpa = fixture->buffer, .len = 16 };

    kumo_fake_driver_start(fixture->driver, ~0ULL, 256);
    kumo_fake_driver_add(fixture->driver, RECEIVE, &readable, 1);
    kumo_fake_driver_kick(fixture->driver, RECEIVE);
    g_assert_true(kumo_write_full(fixture->host_fd, "x", 1));
    g_assert_true(kumo_fake_driver_wait_broken(fixture->driver));
    /* The other direction and a reset still work. */
    guest_write(fixture, "still here");
    expect_host(fixture, "still here");
    kumo_fake_driver_stop(fixture->driver);
    kumo_fake_driver_start(fixture->driver, ~0ULL, 256);
    guest_write(fixture, "again");
    expect_host(fixture, "again");
}

static void test_broken_transmit(Fixture *fixture, gconstpointer unused)
{
    kumo_fake_driver_start(fixture->driver, ~0ULL, 256);
    /* A chain that leads back to itself. */
    kumo_fake_driver_desc(fixture->driver, TRANSMIT, 0, fixture->buffer, 1, VRING_DESC_F_NEXT, 0);
    kumo_fake_driver_publish(fixture->driver, TRANSMIT, 0);
    kumo_fake_driver_kick(fixture->driver, TRANSMIT);
    g_assert_true(kumo_fake_driver_wait_broken(fixture->driver));
    kumo_fake_driver_kick(fixture->driver, TRANSMIT);
    kumo_fake_driver_stop(fixture->driver);
}

/* The same sixteen megabytes 64 times over: a gigabyte that is not copied. */
static void test_huge_chain(Fixture *fixture, gconstpointer unused)
{
    KumoFakeBuf bufs[64];
    uint16_t head;
    uint32_t len;
    json_t *counters;

    for (unsigned i = 0; i < G_N_ELEMENTS(bufs); i++)
        bufs[i] = (KumoFakeBuf){ .gpa = 0, .len = 16 << 20 };
    kumo_fake_driver_start(fixture->driver, ~0ULL, 256);
    kumo_fake_driver_add(fixture->driver, TRANSMIT, bufs, G_N_ELEMENTS(bufs));
    kumo_fake_driver_kick(fixture->driver, TRANSMIT);
    g_assert_true(kumo_fake_driver_wait(fixture->driver, TRANSMIT, &head, &len));
    counters = fixture->device->ops->counters(fixture->device);
    g_assert_cmpint(json_integer_value(json_object_get(counters, "tx_bytes")), ==, 1 << 20);
    json_decref(counters);
}

static void test_null(void)
{
    Fixture fixture = { .driver = kumo_fake_driver_new() };

    fixture.driver->config->console.mode = KUMO_CONSOLE_OFF;
    kumo_device_type_virtio_console.create(&fixture.driver->machine, fixture.driver->config, NULL);
    g_assert_cmpuint(fixture.driver->machine.devices->len, ==, 0);
    fixture.driver->config->console.mode = KUMO_CONSOLE_NULL;
    create(&fixture);
    fixture.buffer = kumo_fake_driver_alloc(fixture.driver, 4096);
    kumo_fake_driver_start(fixture.driver, ~0ULL, 256);
    guest_write(&fixture, "nobody hears this");
    kumo_fake_driver_free(fixture.driver);
}

#define ADD(name, func) g_test_add("/virtio-console/" name, Fixture, NULL, set_up, func, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("identity", test_identity);
    ADD("size", test_size);
    ADD("output", test_output);
    ADD("input", test_input);
    ADD("reboot", test_reboot);
    ADD("broken-receive", test_broken_receive);
    ADD("broken-transmit", test_broken_transmit);
    ADD("huge-chain", test_huge_chain);
    g_test_add_func("/virtio-console/null", test_null);
    return g_test_run();
}
