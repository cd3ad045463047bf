/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/acpi/aml.h"

#include <string.h>

/* Set in the mark of a buffer, whose close also puts in the size of the contents. */
#define MARK_BUFFER 0x80000000u

enum {
    OP_NAME = 0x08,
    OP_BYTE_PREFIX = 0x0a,
    OP_WORD_PREFIX = 0x0b,
    OP_DWORD_PREFIX = 0x0c,
    OP_STRING_PREFIX = 0x0d,
    OP_QWORD_PREFIX = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_VAR_PACKAGE = 0x13,
    OP_METHOD = 0x14,
    OP_DUAL_NAME = 0x2e,
    OP_MULTI_NAME = 0x2f,
    OP_EXT = 0x5b,
    OP_LOCAL0 = 0x60,
    OP_ARG0 = 0x68,
    OP_IF = 0xa0,
    OP_ELSE = 0xa1,
    OP_WHILE = 0xa2,

    EXT_MUTEX = 0x01,
    EXT_ACQUIRE = 0x23,
    EXT_RELEASE = 0x27,
    EXT_REGION = 0x80,
    EXT_FIELD = 0x81,
    EXT_DEVICE = 0x82,
};

KumoAml *kumo_aml_new(void)
{
    KumoAml *aml = g_new(KumoAml, 1);

    aml->bytes = g_byte_array_new();
    return aml;
}

void kumo_aml_free(KumoAml *aml)
{
    if (!aml)
        return;
    g_byte_array_unref(aml->bytes);
    g_free(aml);
}

static void put8(KumoAml *aml, uint8_t value)
{
    g_byte_array_append(aml->bytes, &value, 1);
}

static void put_le(KumoAml *aml, uint64_t value, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++)
        put8(aml, (uint8_t)(value >> (8 * i)));
}

static void insert(KumoAml *aml, unsigned at, const uint8_t *bytes, unsigned len)
{
    unsigned old_len = aml->bytes->len;

    g_byte_array_set_size(aml->bytes, old_len + len);
    memmove(aml->bytes->data + at + len, aml->bytes->data + at, old_len - at);
    memcpy(aml->bytes->data + at, bytes, len);
}

/* PkgLength (ACPI 6.4, 20.2.4) of @value into @ret. Returns: its bytes, 1 to 4. */
static unsigned encode_pkg_length(uint32_t value, uint8_t ret[4])
{
    unsigned follow = value < 1u << 6 ? 0 : value < 1u << 12 ? 1 : value < 1u << 20 ? 2 : 3;

    if (follow == 0) {
        ret[0] = (uint8_t)value;
        return 1;
    }
    ret[0] = (uint8_t)(follow << 6 | (value & 0xf));
    for (unsigned i = 0; i < follow; i++)
        ret[1 + i] = (uint8_t)(value >> (4 + 8 * i));
    return 1 + follow;
}

/* One segment of a name from *@at, padded to four characters; *@at is moved behind it and its dot.
 */
static void put_segment(KumoAml *aml, const char **at)
{
    unsigned n = 0;

    for (; **at && **at != '.'; (*at)++) {
        g_return_if_fail(n < 4);
        put8(aml, (uint8_t) * *at);
        n++;
    }
    for (; n < 4; n++)
        put8(aml, '_');
    if (**at == '.')
        (*at)++;
}

void kumo_aml_path(KumoAml *aml, const char *path)
{
    unsigned n_segments;

    while (*path == '\\' || *path == '^')
        put8(aml, (uint8_t)*path++);
    n_segments = *path ? 1 : 0;
    for (const char *c = path; *c; c++)
        n_segments += *c == '.';

    if (n_segments == 0)
        put8(aml, 0);
    else if (n_segments == 2)
        put8(aml, OP_DUAL_NAME);
    else if (n_segments > 2) {
        put8(aml, OP_MULTI_NAME);
        put8(aml, (uint8_t)n_segments);
    }
    for (unsigned i = 0; i < n_segments; i++)
        put_segment(aml, &path);
}

void kumo_aml_op(KumoAml *aml, unsigned op)
{
    if (op > 0xff)
        put8(aml, (uint8_t)(op >> 8));
    put8(aml, (uint8_t)op);
}

void kumo_aml_raw(KumoAml *aml, const void *bytes, size_t len)
{
    g_byte_array_append(aml->bytes, bytes, (guint)len);
}

KumoAmlMark kumo_aml_open_scope(KumoAml *aml, const char *path)
{
    KumoAmlMark mark;

    put8(aml, OP_SCOPE);
    mark = aml->bytes->len;
    kumo_aml_path(aml, path);
    return mark;
}

KumoAmlMark kumo_aml_open_device(KumoAml *aml, const char *path)
{
    KumoAmlMark mark;

    put8(aml, OP_EXT);
    put8(aml, EXT_DEVICE);
    mark = aml->bytes->len;
    kumo_aml_path(aml, path);
    return mark;
}

KumoAmlMark kumo_aml_open_method(KumoAml *aml, const char *path, unsigned n_args, bool serialized)
{
    KumoAmlMark mark;

    put8(aml, OP_METHOD);
    mark = aml->bytes->len;
    kumo_aml_path(aml, path);
    put8(aml, (uint8_t)((n_args & 7) | (serialized ? 1 << 3 : 0)));
    return mark;
}

KumoAmlMark kumo_aml_open_package(KumoAml *aml, unsigned n_elements)
{
    KumoAmlMark mark;

    put8(aml, n_elements > 0xff ? OP_VAR_PACKAGE : OP_PACKAGE);
    mark = aml->bytes->len;
    if (n_elements > 0xff)
        kumo_aml_integer(aml, n_elements);
    else
        put8(aml, (uint8_t)n_elements);
    return mark;
}

KumoAmlMark kumo_aml_open_if(KumoAml *aml)
{
    put8(aml, OP_IF);
    return aml->bytes->len;
}

KumoAmlMark kumo_aml_open_else(KumoAml *aml)
{
    put8(aml, OP_ELSE);
    return aml->bytes->len;
}

KumoAmlMark kumo_aml_open_while(KumoAml *aml)
{
    put8(aml, OP_WHILE);
    return aml->bytes->len;
}

KumoAmlMark kumo_aml_open_buffer(KumoAml *aml)
{
    put8(aml, OP_BUFFER);
    return aml->bytes->len | MARK_BUFFER;
}

void kumo_aml_close(KumoAml *aml, KumoAmlMark mark)
{
    unsigned at = mark & ~MARK_BUFFER;
    uint8_t encoded[4];
    uint32_t len;
    unsigned n;

    if (mark & MARK_BUFFER) {
        g_autoptr(KumoAml) size = kumo_aml_new();

        kumo_aml_integer(size, aml->bytes->len - at);
        insert(aml, at, size->bytes->data, size->bytes->len);
    }
    /* The length counts its own bytes, whose number depends on it. */
    len = aml->bytes->len - at;
    n = encode_pkg_length(len + 1, encoded);
    if (n > 1)
        n = encode_pkg_length(len + n, encoded);
    n = encode_pkg_length(len + n, encoded);
    insert(aml, at, encoded, n);
}

void kumo_aml_name(KumoAml *aml, const char *path)
{
    put8(aml, OP_NAME);
    kumo_aml_path(aml, path);
}

void kumo_aml_integer(KumoAml *aml, uint64_t value)
{
    if (value == 0) {
        put8(aml, KUMO_AML_ZERO);
    } else if (value == 1) {
        put8(aml, KUMO_AML_ONE);
    } else if (value <= UINT8_MAX) {
        put8(aml, OP_BYTE_PREFIX);
        put_le(aml, value, 1);
    } else if (value <= UINT16_MAX) {
        put8(aml, OP_WORD_PREFIX);
        put_le(aml, value, 2);
    } else if (value <= UINT32_MAX) {
        put8(aml, OP_DWORD_PREFIX);
        put_le(aml, value, 4);
    } else {
        put8(aml, OP_QWORD_PREFIX);
        put_le(aml, value, 8);
    }
}

void kumo_aml_string(KumoAml *aml, const char *text)
{
    put8(aml, OP_STRING_PREFIX);
    g_byte_array_append(aml->bytes, (const guint8 *)text, (guint)strlen(text) + 1);
}

void kumo_aml_eisaid(KumoAml *aml, const char *id)
{
    uint16_t vendor = 0;
    uint16_t product = 0;

    g_return_if_fail(strlen(id) == 7);
    for (unsigned i = 0; i < 3; i++)
        vendor = (uint16_t)(vendor << 5 | ((id[i] - '@') & 0x1f));
    for (unsigned i = 3; i < 7; i++)
        product = (uint16_t)(product << 4 | (g_ascii_xdigit_value(id[i]) & 0xf));
    put8(aml, OP_DWORD_PREFIX);
    put8(aml, (uint8_t)(vendor >> 8));
    put8(aml, (uint8_t)vendor);
    put8(aml, (uint8_t)(product >> 8));
    put8(aml, (uint8_t)product);
}

void kumo_aml_local(KumoAml *aml, unsigned n)
{
    put8(aml, (uint8_t)(OP_LOCAL0 + n));
}

void kumo_aml_arg(KumoAml *aml, unsigned n)
{
    put8(aml, (uint8_t)(OP_ARG0 + n));
}

void kumo_aml_operation_region(KumoAml *aml, const char *path, unsigned space, uint64_t base,
                               uint64_t len)
{
    put8(aml, OP_EXT);
    put8(aml, EXT_REGION);
    kumo_aml_path(aml, path);
    put8(aml, (uint8_t)space);
    kumo_aml_integer(aml, base);
    kumo_aml_integer(aml, len);
}

void kumo_aml_field(KumoAml *aml, const char *region, unsigned access, bool lock, unsigned update,
                    const KumoAmlField *fields, unsigned n_fields)
{
    KumoAmlMark mark;

    put8(aml, OP_EXT);
    put8(aml, EXT_FIELD);
    mark = aml->bytes->len;
    kumo_aml_path(aml, region);
    put8(aml, (uint8_t)((access & 0xf) | (lock ? 1 << 4 : 0) | (update & 3) << 5));
    for (unsigned i = 0; i < n_fields; i++) {
        uint8_t width[4];
        unsigned n = encode_pkg_length(fields[i].bits, width);

        if (fields[i].name) {
            const char *name = fields[i].name;

            put_segment(aml, &name);
        } else {
            put8(aml, 0);
        }
        g_byte_array_append(aml->bytes, width, n);
    }
    kumo_aml_close(aml, mark);
}

void kumo_aml_mutex(KumoAml *aml, const char *path)
{
    put8(aml, OP_EXT);
    put8(aml, EXT_MUTEX);
    kumo_aml_path(aml, path);
    put8(aml, 0); /* sync level */
}

void kumo_aml_acquire(KumoAml *aml, const char *path, unsigned timeout_ms)
{
    put8(aml, OP_EXT);
    put8(aml, EXT_ACQUIRE);
    kumo_aml_path(aml, path);
    put_le(aml, MIN(timeout_ms, 0xffff), 2);
}

void kumo_aml_release(KumoAml *aml, const char *path)
{
    put8(aml, OP_EXT);
    put8(aml, EXT_RELEASE);
    kumo_aml_path(aml, path);
}

void kumo_aml_uuid(KumoAml *aml, const char *uuid)
{
    /* Where the text's bytes go: the first three groups are little-endian. */
    static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
    uint8_t bytes[16] = { 0 };
    unsigned n = 0;
    KumoAmlMark mark;

    for (const char *c = uuid; *c && n < 32; c++) {
        if (*c == '-')
            continue;
        bytes[order[n / 2]] =
            (uint8_t)(bytes[order[n / 2]] << 4 | (g_ascii_xdigit_value(*c) & 0xf));
        n++;
    }
    g_return_if_fail(n == 32);
    mark = kumo_aml_open_buffer(aml);
    kumo_aml_raw(aml, bytes, sizeof(bytes));
    kumo_aml_close(aml, mark);
}

KumoAmlMark kumo_aml_open_resources(KumoAml *aml)
{
    return kumo_aml_open_buffer(aml);
}

void kumo_aml_close_resources(KumoAml *aml, KumoAmlMark mark)
{
    put8(aml, 0x79); /* end tag; a checksum of 0 counts as right (6.4.2.9) */
    put8(aml, 0);
    kumo_aml_close(aml, mark);
}

void kumo_aml_res_io(KumoAml *aml, uint16_t min, uint16_t max, uint8_t align, uint8_t len)
{
    put8(aml, 0x47);
    put8(aml, 1); /* decodes all 16 address bits */
    put_le(aml, min, 2);
    put_le(aml, max, 2);
    put8(aml, align);
    put8(aml, len);
}

void kumo_aml_res_irq(KumoAml *aml, uint32_t gsi, bool level, bool active_low, bool shared)
{
    put8(aml, 0x89);
    put_le(aml, 6, 2);
    put8(aml,
         (uint8_t)(1 | (level ? 0 : 1 << 1) | (active_low ? 1 << 2 : 0) | (shared ? 1 << 3 : 0)));
    put8(aml, 1);
    put_le(aml, gsi, 4);
}

void kumo_aml_res_memory32_fixed(KumoAml *aml, bool writable, uint32_t base, uint32_t len)
{
    put8(aml, 0x86);
    put_le(aml, 9, 2);
    put8(aml, writable ? 1 : 0);
    put_le(aml, base, 4);
    put_le(aml, len, 4);
}

/* Address space descriptors (ACPI 6.4, 6.4.3.5): a produced, positively decoded range with both
 * ends fixed. */
static void res_address(KumoAml *aml, uint8_t tag, unsigned width, uint8_t type, uint8_t flags,
                        uint64_t min, uint64_t max)
{
    put8(aml, tag);
    put_le(aml, 3 + 5 * width, 2);
    put8(aml, type);
    put8(aml, 1 << 2 | 1 << 3);
    put8(aml, flags);
    put_le(aml, 0, width); /* granularity */
    put_le(aml, min, width);
    put_le(aml, max, width);
    put_le(aml, 0, width); /* translation */
    put_le(aml, max - min + 1, width);
}

void kumo_aml_res_bus_numbers(KumoAml *aml, uint16_t min, uint16_t max)
{
    res_address(aml, 0x88, 2, 2, 0, min, max);
}

void kumo_aml_res_word_io(KumoAml *aml, uint16_t min, uint16_t max)
{
    res_address(aml, 0x88, 2, 1, 3, min, max); /* ISA and non-ISA addresses */
}

void kumo_aml_res_dword_memory(KumoAml *aml, bool cacheable, uint32_t min, uint32_t max)
{
    res_address(aml, 0x87, 4, 0, cacheable ? 1 | 1 << 1 : 1, min, max);
}

void kumo_aml_res_qword_memory(KumoAml *aml, bool cacheable, uint64_t min, uint64_t max)
{
    res_address(aml, 0x8a, 8, 0, cacheable ? 1 | 1 << 1 : 1, min, max);
}
