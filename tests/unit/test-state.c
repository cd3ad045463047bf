/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/core/state.h"

typedef struct {
    uint16_t a;
    bool b;
} Inner;

typedef struct {
    uint8_t u8;
    uint16_t u16;
    uint32_t u32[3];
    uint64_t u64;
    bool flag;
    uint8_t bytes[4];
    Inner inner;
    Inner pair[2];
    Inner *items;
    size_t n_items;
    uint64_t *numbers;
    size_t n_numbers;
    uint8_t *blob;
    size_t blob_len;
    char *text;
    uint32_t late;
    uint32_t extra;
} Outer;

static const KumoStateField inner_fields[] = {
    { KUMO_STATE_ROW(U16, Inner, a) },
    { KUMO_STATE_ROW(BOOL, Inner, b) },
};

static const KumoStateTable inner_table = {
    .name = "inner",
    .version = 1,
    .fields = inner_fields,
    .n_fields = G_N_ELEMENTS(inner_fields),
    .size = sizeof(Inner),
};

static const KumoStateField outer_fields[] = {
    { KUMO_STATE_ROW(U8, Outer, u8) },
    { KUMO_STATE_ROW(U16, Outer, u16) },
    { KUMO_STATE_ROW(U32, Outer, u32), .count = 3 },
    { KUMO_STATE_ROW(U64, Outer, u64) },
    { KUMO_STATE_ROW(BOOL, Outer, flag) },
    { KUMO_STATE_ROW(BYTES, Outer, bytes), .count = 4 },
    { KUMO_STATE_ROW(TABLE, Outer, inner), .table = &inner_table },
    { KUMO_STATE_ROW(TABLE, Outer, pair), .table = &inner_table, .count = 2 },
    { KUMO_STATE_ROW(TABLE, Outer, items), .table = &inner_table, .list = true,
      .count_offset = offsetof(Outer, n_items), .max = 3 },
    { KUMO_STATE_ROW(U64, Outer, numbers), .list = true, .count_offset = offsetof(Outer, n_numbers),
      .max = 4 },
    { KUMO_STATE_ROW(BLOB, Outer, blob), .count_offset = offsetof(Outer, blob_len), .max = 8 },
    { KUMO_STATE_ROW(STRING, Outer, text), .max = 8 },
    { KUMO_STATE_ROW(U32, Outer, late), .since = 2, .def = 77 },
    { KUMO_STATE_ROW(U32, Outer, extra), .optional = true, .def = 5 },
};

static const KumoStateTable outer_table = {
    .name = "outer",
    .version = 2,
    .fields = outer_fields,
    .n_fields = G_N_ELEMENTS(outer_fields),
    .size = sizeof(Outer),
};

static Outer example(void)
{
    Outer outer = {
        .u8 = 255,
        .u16 = 65535,
        .u32 = { 1, 0, UINT32_MAX },
        .u64 = UINT64_MAX,
        .flag = true,
        .bytes = { 0, 0x1f, 0xff, 0x80 },
        .inner = { 3, true },
        .pair = { { 4, false }, { 5, true } },
        .items = g_new0(Inner, 2),
        .n_items = 2,
        .numbers = g_new0(uint64_t, 1),
        .n_numbers = 1,
        .blob = g_memdup2("blob", 4),
        .blob_len = 4,
        .text = g_strdup("text"),
        .late = 9,
        .extra = 10,
    };

    outer.items[1].a = 7;
    outer.numbers[0] = 1ULL << 63;
    return outer;
}

static json_t *example_json(void)
{
    Outer outer = example();
    json_t *json = kumo_state_encode(&outer_table, &outer);

    kumo_state_clear(&outer_table, &outer);
    return json;
}

static void check_refused(json_t *json, const char *message)
{
    g_autoptr(GError) error = NULL;
    Outer outer;

    g_assert_false(kumo_state_decode(&outer_table, json, "x", &outer, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_assert_nonnull(strstr(error->message, message));
    kumo_state_clear(&outer_table, &outer);
    json_decref(json);
}

static void check_accepted(json_t *json, Outer *ret)
{
    g_autoptr(GError) error = NULL;
    bool ok = kumo_state_decode(&outer_table, json, "x", ret, &error);

    g_assert_no_error(error);
    g_assert_true(ok);
    json_decref(json);
}

static void test_round_trip(void)
{
    Outer outer = example(), back;
    json_t *json = kumo_state_encode(&outer_table, &outer);
    g_autofree char *text = json_dumps(json, JSON_COMPACT);
    json_t *again = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    json_t *third;

    check_accepted(again, &back);
    g_assert_cmpuint(back.u8, ==, 255);
    g_assert_cmpuint(back.u16, ==, 65535);
    g_assert_cmpuint(back.u32[2], ==, UINT32_MAX);
    g_assert_cmpuint(back.u64, ==, UINT64_MAX);
    g_assert_true(back.flag);
    g_assert_cmpmem(back.bytes, 4, outer.bytes, 4);
    g_assert_cmpuint(back.pair[1].a, ==, 5);
    g_assert_cmpuint(back.n_items, ==, 2);
    g_assert_cmpuint(back.items[1].a, ==, 7);
    g_assert_cmpuint(back.numbers[0], ==, 1ULL << 63);
    g_assert_cmpmem(back.blob, back.blob_len, "blob", 4);
    g_assert_cmpstr(back.text, ==, "text");
    g_assert_cmpuint(back.late, ==, 9);
    g_assert_cmpuint(back.extra, ==, 10);

    third = kumo_state_encode(&outer_table, &back);
    g_assert_true(json_equal(json, third));
    json_decref(third);
    json_decref(json);
    kumo_state_clear(&outer_table, &outer);
    kumo_state_clear(&outer_table, &back);
    g_assert_null(back.text);
}

static void test_versions(void)
{
    json_t *json = example_json();
    Outer outer;

    json_object_set_new(json, "version", json_integer(1));
    json_object_del(json, "late");
    json_object_del(json, "extra?");
    check_accepted(json, &outer);
    g_assert_cmpuint(outer.late, ==, 77);
    g_assert_cmpuint(outer.extra, ==, 5);
    kumo_state_clear(&outer_table, &outer);

    json = example_json();
    json_object_del(json, "late");
    check_refused(json, "x.late: is missing");

    json = example_json();
    json_object_set_new(json, "version", json_integer(3));
    check_refused(json, "version 3, made by a newer kumo: this one reads up to version 2");
    json = example_json();
    json_object_set_new(json, "version", json_integer(0));
    check_refused(json, "no version");
    json = example_json();
    json_object_del(json, "version");
    check_refused(json, "no version");
    json = example_json();
    json_object_set_new(json_object_get(json, "inner"), "version", json_integer(9));
    check_refused(json, "x.inner: is inner in version 9");
}

static void test_unknown(void)
{
    json_t *json = example_json();
    Outer outer;

    json_object_set_new(json, "news", json_integer(1));
    check_refused(json, "no field \"news\"");

    json = example_json();
    json_object_set_new(json, "news?", json_integer(1));
    check_accepted(json, &outer);
    kumo_state_clear(&outer_table, &outer);

    json = example_json();
    json_object_set_new(json, "extra", json_integer(1));
    check_refused(json, "no field \"extra\"");

    json = example_json();
    json_object_set_new(json_array_get(json_object_get(json, "items"), 1), "c", json_true());
    check_refused(json, "x.items[1]: inner has no field \"c\"");
}

static void test_values(void)
{
    static const struct {
        const char *key, *value, *message;
    } cases[] = {
        { "u8", "256", "x.u8: must be a number from 0 to 255" },
        { "u8", "-1", "x.u8" },
        { "u8", "1.0", "x.u8" },
        { "u8", "\"1\"", "x.u8" },
        { "u8", "null", "x.u8" },
        { "u16", "65536", "x.u16" },
        { "u32", "[1, 2]", "x.u32: has 2 elements, must have 3" },
        { "u32", "[1, 2, 4294967296]", "x.u32[2]" },
        { "u32", "7", "x.u32: must be an array" },
        { "u64", "7", "x.u64" },
        { "u64", "\"\"", "x.u64" },
        { "u64", "\"0x\"", "x.u64" },
        { "u64", "\"0x10000000000000000\"", "x.u64" },
        { "u64", "\"0xg\"", "x.u64" },
        { "flag", "1", "x.flag: must be true or false" },
        { "bytes", "\"001122\"", "x.bytes: has 3 bytes, must have 4" },
        { "bytes", "\"0011223\"", "x.bytes: must be a string of pairs" },
        { "bytes", "\"001122xx\"", "x.bytes: has a character" },
        { "bytes", "4", "x.bytes" },
        { "inner", "4", "x.inner: must be an object" },
        { "inner", "{\"version\": 1, \"a\": 1}", "x.inner.b: is missing" },
        { "items", "[4]", "x.items[0]: must be an object" },
        { "numbers", "[\"0x1\",\"0x1\",\"0x1\",\"0x1\",\"0x1\"]", "at most 4" },
        { "blob", "\"001122334455667788\"", "x.blob: has 9 bytes, at most 8" },
        { "text", "\"123456789\"", "x.text: has 9 bytes, at most 8" },
        { "text", "\"a\\u0000b\"", "x.text" },
        { "text", "[]", "x.text" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        json_t *json = example_json();

        json_object_set_new(json, cases[i].key,
                            json_loads(cases[i].value, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL));
        check_refused(json, cases[i].message);
    }
    check_refused(json_array(), "x: must be an object");
}

static void test_empty(void)
{
    json_t *json = example_json();
    Outer outer;

    json_object_set_new(json, "items", json_array());
    json_object_set_new(json, "blob", json_string(""));
    json_object_set_new(json, "text", json_null());
    check_accepted(json, &outer);
    g_assert_cmpuint(outer.n_items, ==, 0);
    g_assert_cmpuint(outer.blob_len, ==, 0);
    g_assert_null(outer.text);
    json = kumo_state_encode(&outer_table, &outer);
    kumo_state_clear(&outer_table, &outer);
    check_accepted(json, &outer);
    kumo_state_clear(&outer_table, &outer);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/state/round-trip", test_round_trip);
    g_test_add_func("/state/versions", test_versions);
    g_test_add_func("/state/unknown-fields", test_unknown);
    g_test_add_func("/state/values", test_values);
    g_test_add_func("/state/empty", test_empty);
    return g_test_run();
}
