/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A snapshot or a stream whose state says anything, of a whole machine: a series of changes to a
 * good one, four bytes each: two choose the value, one what is done to it, one with what. What is
 * taken is saved again, and the machine is resumed as far as it goes without a guest.
 */
#include <string.h>

#include "tests/fakes/golden_machine.h"
#include "vmm-core/base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CHANGE_BYTES = 4, MAX_CHANGES = 16 };

static const char name[] = "26.11/virtio-mem";

static json_t *new_value(const json_t *old, uint8_t how, uint8_t with)
{
    static const char *const numbers[] = { "0x0",       "0x1",       "0xffffffffffffffff",
                                           "0x3fff000", "0x4000000", "0x8000000000000000",
                                           "x",         "" };
    g_autofree char *text = NULL;

    switch (how % 8) {
    case 0:
        return json_integer(with);
    case 1:
        return json_integer(((json_int_t)with << 8) - 1);
    case 2:
        return json_string(numbers[with % G_N_ELEMENTS(numbers)]);
    case 3:
        return json_boolean(with & 1);
    case 4:
        return json_integer(json_integer_value(old) ^ (json_int_t)1 << (with & 31));
    case 5:
        return json_array();
    case 6: /* one digit of a string becomes another */
        text = g_strdup(json_string_value(old) ? json_string_value(old) : "");
        if (*text)
            text[(with * 7) % strlen(text)] = "0123456789abcdef"[with & 15];
        return json_string(text);
    default:
        return NULL;
    }
}

/* Changes the value number *@left of the walk. Returns: TRUE when that is done. */
static bool change(json_t *json, unsigned *left, uint8_t how, uint8_t with)
{
    const char *key;
    void *next;
    json_t *value;
    size_t i;

    json_object_foreach_safe(json, next, key, value)
    {
        if ((*left)-- == 0) {
            json_t *to = new_value(value, how, with);

            if (to)
                json_object_set_new(json, key, to);
            else
                json_object_del(json, key);
            return true;
        }
        if (change(value, left, how, with))
            return true;
    }
    json_array_foreach(json, i, value)
    {
        if (change(value, left, how, with))
            return true;
    }
    return false;
}

static json_t *good_state(void)
{
    json_t *state = golden_machine_state(name);

    /* A tap is for root. */
    json_object_del(json_object_get(state, "devices"), GOLDEN_NET);
    return state;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *good;
    g_autoptr(GError) error = NULL;
    GoldenMachine machine = { 0 };
    json_t *state;

    kumo_log_level = KUMO_LOG_ERROR;
    if (!good) {
        golden_machine_set_up();
        atexit(golden_machine_tear_down);
        good = good_state();
    }
    state = json_deep_copy(good);
    for (size_t at = 0; at + CHANGE_BYTES <= size && at < MAX_CHANGES * CHANGE_BYTES;
         at += CHANGE_BYTES) {
        unsigned left = data[at] | (unsigned)data[at + 1] << 8;

        change(state, &left, data[at + 2], data[at + 3]);
    }
    if (golden_machine_start(&machine, name, good, state, &error)) {
        json_t *saved = kumo_vm_save_state(machine.vm, NULL);

        g_assert_nonnull(saved);
        json_decref(saved);
    } else {
        g_assert_nonnull(error);
    }
    golden_machine_end(&machine);
    json_decref(state);
    return 0;
}
