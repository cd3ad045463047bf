/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/json_change.h"

#include <glib.h>
#include <stdbool.h>
#include <string.h>

enum { CHANGE_BYTES = 4 };

static json_t *new_value(const json_t *old, uint8_t how, uint8_t with)
{
    static const char *const numbers[] = {
        "0x0",       "0x1",       "0xffffffffffffffff", "0x3ff000", "0x400000",
        "0x3fff000", "0x4000000", "0x8000000000000000", "x",        "",
    };
    g_autofree char *text = NULL;

    switch (how % 9) {
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
        return json_null();
    case 6:
        return json_array();
    case 7: /* one digit of a string becomes another */
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

void fake_json_change(json_t *json, const uint8_t *data, size_t size, unsigned max)
{
    for (size_t at = 0; at + CHANGE_BYTES <= size && at < (size_t)max * CHANGE_BYTES;
         at += CHANGE_BYTES) {
        unsigned left = data[at] | (unsigned)data[at + 1] << 8;

        change(json, &left, data[at + 2], data[at + 3]);
    }
}
