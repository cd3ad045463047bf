/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A snapshot or a stream whose state says anything, of a whole machine: a series of changes to a
 * good one, four bytes each: two choose the value, one what is done to it, one with what. What is
 * taken is saved again, and the machine is resumed as far as it goes without a guest.
 */
#include "tests/fakes/golden_machine.h"
#include "tests/fakes/json_change.h"
#include "vmm-core/base/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_CHANGES = 16 };

static const char name[] = "26.11/virtio-mem";

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
    fake_json_change(state, data, size, MAX_CHANGES);
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
