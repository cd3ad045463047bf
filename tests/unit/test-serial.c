/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/fakes/fake_machine.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/devices/console/backend.h"
#include "vmm-core/devices/platform/platform.h"

enum { COM1 = 0x3f8, VECTOR = 0x34, WAIT_MS = 5000 };

typedef struct {
    FakeMachine *fake;
    char *path;
} Fixture;

/* The port's other side is a file, so that tests see what was transmitted. */
static void set_up(Fixture *fixture, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    int fd = g_file_open_tmp("kumo-serial-XXXXXX", &fixture->path, &error);

    g_assert_no_error(error);
    close(fd);
    fixture->fake = fake_machine_new();
    fixture->fake->config->serial.mode = KUMO_CONSOLE_FILE;
    fixture->fake->config->serial.file = g_strdup(fixture->path);
    fixture->fake->config->console.mode = KUMO_CONSOLE_OFF;
    fixture->fake->machine.consoles = kumo_console_set_open(fixture->fake->config, &error);
    g_assert_no_error(error);
    fake_machine_create(fixture->fake, &kumo_device_type_serial);
    fake_machine_route(fixture->fake, 4, VECTOR);
}

static void tear_down(Fixture *fixture, gconstpointer unused)
{
    KumoConsoleSet *consoles = fixture->fake->machine.consoles;

    fake_machine_free(fixture->fake);
    kumo_console_set_close(consoles);
    unlink(fixture->path);
    g_free(fixture->path);
}

static uint8_t in(Fixture *fixture, unsigned reg)
{
    return fake_machine_inb(fixture->fake, (uint16_t)(COM1 + reg));
}

static void out(Fixture *fixture, unsigned reg, uint8_t value)
{
    fake_machine_outb(fixture->fake, (uint16_t)(COM1 + reg), value);
}

static void test_registers(Fixture *fixture, gconstpointer unused)
{
    g_assert_cmphex(in(fixture, 2), ==, 0x01);
    g_assert_cmphex(in(fixture, 5), ==, 0x60);
    g_assert_cmphex(in(fixture, 6), ==, 0xb0);
    out(fixture, 7, 0xa5);
    g_assert_cmphex(in(fixture, 7), ==, 0xa5);
    out(fixture, 1, 0xff);
    g_assert_cmphex(in(fixture, 1), ==, 0x0f);
    out(fixture, 4, 0xef);
    g_assert_cmphex(in(fixture, 4), ==, 0x0f);
    /* Line and modem status cannot be written. */
    out(fixture, 5, 0xff);
    out(fixture, 6, 0xff);
    g_assert_cmphex(in(fixture, 5), ==, 0x60);
    g_assert_cmphex(in(fixture, 6) & 0xf0, ==, 0xb0);

    /* The divisor is 12 at first and separate from data and IER. */
    out(fixture, 3, 0x83);
    g_assert_cmphex(in(fixture, 0), ==, 12);
    g_assert_cmphex(in(fixture, 1), ==, 0);
    out(fixture, 0, 0x34);
    out(fixture, 1, 0x12);
    g_assert_cmphex(in(fixture, 0), ==, 0x34);
    g_assert_cmphex(in(fixture, 1), ==, 0x12);
    out(fixture, 3, 0x03);
    g_assert_cmphex(in(fixture, 1), ==, 0x0f);
    g_assert_cmphex(in(fixture, 3), ==, 0x03);

    /* With FIFOs the identification says so. */
    out(fixture, 1, 0);
    out(fixture, 2, 0x07);
    g_assert_cmphex(in(fixture, 2), ==, 0xc1);
    out(fixture, 2, 0x00);
    g_assert_cmphex(in(fixture, 2), ==, 0x01);
}

static void test_transmit_interrupt(Fixture *fixture, gconstpointer unused)
{
    FakeMachine *fake = fixture->fake;

    out(fixture, 0, 'x');
    g_assert_cmpuint(fake_machine_interrupts(fake, VECTOR), ==, 0);
    /* Enabling it raises it, for the transmitter is empty. */
    out(fixture, 1, 0x02);
    g_assert_cmpuint(fake_machine_interrupts(fake, VECTOR), ==, 1);
    out(fixture, 1, 0x02);
    g_assert_cmpuint(fake_machine_interrupts(fake, VECTOR), ==, 1);
    /* Reading the identification ends it. */
    g_assert_cmphex(in(fixture, 2), ==, 0x02);
    g_assert_cmphex(in(fixture, 2), ==, 0x01);
    /* Every byte makes an edge, also if the last one was not acknowledged. */
    out(fixture, 0, 'y');
    g_assert_cmpuint(fake_machine_interrupts(fake, VECTOR), ==, 2);
    out(fixture, 0, 'z');
    g_assert_cmpuint(fake_machine_interrupts(fake, VECTOR), ==, 3);
    g_assert_cmphex(in(fixture, 2), ==, 0x02);
    out(fixture, 1, 0);
    out(fixture, 0, '!');
    g_assert_cmpuint(fake_machine_interrupts(fake, VECTOR), ==, 3);
}

static void test_transmit_data(Fixture *fixture, gconstpointer unused)
{
    static const char text[] = "hello, world\r\n";
    g_autofree char *content = NULL;
    gsize len = 0;
    int64_t until = g_get_monotonic_time() + WAIT_MS * 1000;

    for (unsigned i = 0; text[i]; i++)
        out(fixture, 0, (uint8_t)text[i]);
    do {
        g_clear_pointer(&content, g_free);
        g_assert_true(g_file_get_contents(fixture->path, &content, &len, NULL));
    } while (len < strlen(text) && g_get_monotonic_time() < until);
    g_assert_cmpstr(content, ==, text);
}

static void test_loopback(Fixture *fixture, gconstpointer unused)
{
    FakeMachine *fake = fixture->fake;

    out(fixture, 4, 0x10);
    g_assert_cmphex(in(fixture, 6), ==, 0x0b); /* CTS, DSR and DCD fell */
    g_assert_cmphex(in(fixture, 6), ==, 0x00);
    out(fixture, 4, 0x1f);
    g_assert_cmphex(in(fixture, 6), ==, 0xfb); /* all rose; a rising ring does not count */
    out(fixture, 1, 0x08);
    out(fixture, 4, 0x1b);
    g_assert_cmpuint(fake_machine_interrupts(fake, VECTOR), ==, 1);
    g_assert_cmphex(in(fixture, 2), ==, 0x00);
    g_assert_cmphex(in(fixture, 6), ==, 0xb4);
    g_assert_cmphex(in(fixture, 2), ==, 0x01);

    /* What is sent is received; without a FIFO the second byte overruns the first. */
    out(fixture, 1, 0x05);
    out(fixture, 0, 'a');
    g_assert_cmphex(in(fixture, 2), ==, 0x04);
    g_assert_cmphex(in(fixture, 5), ==, 0x61);
    out(fixture, 0, 'b');
    g_assert_cmphex(in(fixture, 2), ==, 0x06);
    g_assert_cmphex(in(fixture, 5), ==, 0x63);
    g_assert_cmphex(in(fixture, 5), ==, 0x61);
    g_assert_cmphex(in(fixture, 0), ==, 'b');
    g_assert_cmphex(in(fixture, 5), ==, 0x60);

    /* With the FIFO: below the trigger level it is a time-out, and the 17th byte is lost. */
    out(fixture, 2, 0x81);
    for (unsigned i = 0; i < 7; i++)
        out(fixture, 0, (uint8_t)i);
    g_assert_cmphex(in(fixture, 2), ==, 0xcc);
    out(fixture, 0, 7);
    g_assert_cmphex(in(fixture, 2), ==, 0xc4);
    for (unsigned i = 8; i < 17; i++)
        out(fixture, 0, (uint8_t)i);
    g_assert_cmphex(in(fixture, 5), ==, 0x63);
    for (unsigned i = 0; i < 16; i++)
        g_assert_cmphex(in(fixture, 0), ==, i);
    g_assert_cmphex(in(fixture, 5), ==, 0x60);

    /* Clearing the FIFO, and leaving its mode, empties it. */
    out(fixture, 0, 'x');
    out(fixture, 2, 0x83);
    g_assert_cmphex(in(fixture, 5), ==, 0x60);
    out(fixture, 0, 'x');
    out(fixture, 2, 0x00);
    g_assert_cmphex(in(fixture, 5), ==, 0x60);
    out(fixture, 4, 0);
    g_assert_cmphex(in(fixture, 6) & 0xf0, ==, 0xb0);
}

static void test_wide_access(Fixture *fixture, gconstpointer unused)
{
    KumoBus *pio = fixture->fake->machine.pio;
    uint8_t data[8];

    /* Eight registers at once: DLAB is still off when data and IER are written. */
    static const uint8_t values[8] = { 'A', 0x00, 0x00, 0x03, 0x0b, 0x00, 0x00, 0x5a };

    kumo_bus_write(pio, 0, COM1, values, 8);
    memset(data, 0xee, sizeof(data));
    kumo_bus_read(pio, 0, COM1, data, 8);
    g_assert_cmphex(data[3], ==, 0x03);
    g_assert_cmphex(data[4], ==, 0x0b);
    g_assert_cmphex(data[5], ==, 0x60);
    g_assert_cmphex(data[7], ==, 0x5a);
    for (unsigned size = 1; size <= 8; size++) {
        for (unsigned reg = 0; reg < 8; reg++) {
            memset(data, 0xff, sizeof(data));
            kumo_bus_write(pio, 0, COM1 + reg, data, size);
            kumo_bus_read(pio, 0, COM1 + reg, data, size);
        }
    }
}

static void test_aml(Fixture *fixture, gconstpointer unused)
{
    KumoDevice *device = kumo_device_find(&fixture->fake->machine, "__serial");
    g_autoptr(KumoAml) aml = kumo_aml_new();

    g_assert_nonnull(device);
    device->ops->aml(device, aml);
    g_assert_cmphex(aml->bytes->data[0], ==, 0x5b);
    g_assert_cmphex(aml->bytes->data[1], ==, 0x82);
    g_assert_nonnull(memmem(aml->bytes->data, aml->bytes->len, "COM1", 4));
    /* IO(Decode16, 0x3f8, 0x3f8, 1, 8) */
    g_assert_nonnull(
        memmem(aml->bytes->data, aml->bytes->len, "\x47\x01\xf8\x03\xf8\x03\x01\x08", 8));
}

static void test_off(void)
{
    FakeMachine *fake = fake_machine_new();

    fake->config->serial.mode = KUMO_CONSOLE_OFF;
    fake_machine_create(fake, &kumo_device_type_serial);
    g_assert_cmpuint(fake->machine.devices->len, ==, 0);
    g_assert_cmphex(fake_machine_inb(fake, COM1 + 5), ==, 0xff);
    /* Null: the port is there and drops what is written. */
    fake->config->serial.mode = KUMO_CONSOLE_NULL;
    fake_machine_create(fake, &kumo_device_type_serial);
    fake_machine_outb(fake, COM1, 'x');
    g_assert_cmphex(fake_machine_inb(fake, COM1 + 5), ==, 0x60);
    fake_machine_free(fake);
}

/* A host that sends more than the port can hold: nothing is lost, whatever the guest's pace. */
static void test_input(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-serial-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "socket", NULL);
    g_autoptr(GError) error = NULL;
    FakeMachine *fake = fake_machine_new();
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    KumoConsoleSet *consoles;
    KumoDevice *device;
    uint8_t sent[3000];
    unsigned received = 0;
    int64_t until;
    int fd;

    fake->config->serial.mode = KUMO_CONSOLE_SOCKET;
    fake->config->serial.socket = g_strdup(path);
    fake->config->console.mode = KUMO_CONSOLE_OFF;
    consoles = kumo_console_set_open(fake->config, &error);
    g_assert_no_error(error);
    fake->machine.consoles = consoles;
    fake_machine_create(fake, &kumo_device_type_serial);
    fake_machine_route(fake, 4, VECTOR);
    fake_machine_outb(fake, COM1 + 1, 0x01);

    for (unsigned i = 0; i < sizeof(sent); i++)
        sent[i] = (uint8_t)(i * 7);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_true(kumo_write_full(fd, sent, sizeof(sent)));

    until = g_get_monotonic_time() + 4 * WAIT_MS * 1000;
    while (received < sizeof(sent) && g_get_monotonic_time() < until) {
        if (received == 1000)
            fake_machine_outb(fake, COM1 + 2, 0x00); /* no change of mode: nothing is emptied */
        if (received == 1500 && !(fake_machine_inb(fake, COM1 + 5) & 0x01)) {
            device = kumo_device_find(&fake->machine, "__serial");
            g_assert_true(device->ops->pause(device, NULL));
            device->ops->resume(device);
        }
        if (fake_machine_inb(fake, COM1 + 5) & 0x01)
            g_assert_cmphex(fake_machine_inb(fake, COM1), ==, sent[received++]);
        else
            g_usleep(1);
    }
    g_assert_cmpuint(received, ==, sizeof(sent));
    g_assert_cmpuint(fake_machine_interrupts(fake, VECTOR), >, 0);
    g_assert_cmphex(fake_machine_inb(fake, COM1 + 5), ==, 0x60);

    fake_machine_free(fake);
    close(fd);
    kumo_console_set_close(consoles);
    g_assert_cmpint(rmdir(dir), ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add("/serial/registers", Fixture, NULL, set_up, test_registers, tear_down);
    g_test_add("/serial/transmit-interrupt", Fixture, NULL, set_up, test_transmit_interrupt,
               tear_down);
    g_test_add("/serial/transmit-data", Fixture, NULL, set_up, test_transmit_data, tear_down);
    g_test_add("/serial/loopback", Fixture, NULL, set_up, test_loopback, tear_down);
    g_test_add("/serial/wide-access", Fixture, NULL, set_up, test_wide_access, tear_down);
    g_test_add("/serial/aml", Fixture, NULL, set_up, test_aml, tear_down);
    g_test_add_func("/serial/off", test_off);
    g_test_add_func("/serial/input", test_input);
    return g_test_run();
}
