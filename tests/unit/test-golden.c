/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The states of tests/data/state, which releases of kumo wrote, in a machine with all devices on
 * the fake hypervisor: each loads, and what is saved afterwards is what was loaded. From there,
 * each field of each table is changed: what is not refused has to be saved again as well.
 */
#include <glib/gstdio.h>
#include <string.h>

#include "tests/fakes/golden_machine.h"
#include "tests/fakes/netns.h"
#include "vmm-core/core/vcpu_state.h"
#include "vmm-core/migration/snapshot.h"

static const char *skip;
static GHashTable *walked; /* what of all releases has been changed field by field */

/* --- whether what is saved is what was loaded --- */

/* Times go on, and who writes is not who wrote. */
static void forget_what_changes(json_t *state)
{
    json_t *power = json_object_get(
        json_object_get(json_object_get(state, "devices"), "__acpi_power"), "state");

    json_object_del(state, "made_by");
    if (power)
        json_object_del(power, "timer_ns");
}

/* Returns: (transfer full) (nullable): where @saved is not what @wanted has: fields of a later
 * version are in
 * @saved alone. */
static char *difference(const json_t *wanted, const json_t *saved, const char *path)
{
    const char *key;
    json_t *value;
    size_t i;

    if (json_is_object(wanted) && json_is_object(saved)) {
        json_object_foreach((json_t *)wanted, key, value)
        {
            g_autofree char *name = g_strconcat(path, ".", key, NULL);
            char *found = strcmp(key, "version") == 0
                              ? NULL
                              : difference(value, json_object_get(saved, key), name);

            if (found)
                return found;
        }
        return NULL;
    }
    if (json_is_array(wanted) && json_is_array(saved) &&
        json_array_size(wanted) == json_array_size(saved)) {
        json_array_foreach(wanted, i, value)
        {
            g_autofree char *name = g_strdup_printf("%s[%zu]", path, i);
            char *found = difference(value, json_array_get(saved, i), name);

            if (found)
                return found;
        }
        return NULL;
    }
    if (json_equal(wanted, saved))
        return NULL;
    return g_strdup(path);
}

/* Returns: (transfer full) (nullable): the path of what is not saved as @wanted has it. */
static char *not_saved(GoldenMachine *machine, const json_t *wanted)
{
    g_autoptr(GError) error = NULL;
    json_t *saved = kumo_vm_save_state(machine->vm, &error);
    json_t *copy = json_deep_copy(wanted);
    char *where;

    g_assert_no_error(error);
    forget_what_changes(saved);
    forget_what_changes(copy);
    where = difference(copy, saved, "state");
    json_decref(copy);
    json_decref(saved);
    return where;
}

static void test_load(gconstpointer opaque)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *where = NULL;
    GoldenMachine machine = { 0 };
    json_t *present;
    bool ok;

    if (skip) {
        g_test_skip(skip);
        return;
    }
    present = golden_machine_state(opaque);
    ok = golden_machine_start(&machine, opaque, present, present, &error);
    g_assert_no_error(error);
    g_assert_true(ok);
    where = not_saved(&machine, present);
    if (where)
        g_error("%s is not saved as it was loaded", where);
    golden_machine_end(&machine);
    json_decref(present);
}

/* --- every field --- */

enum { BITS = 6, WAYS = 8 };

/* Another value of the same kind, one for each @way. Returns: (transfer full) (nullable): of what
 * holds values, NULL. */
static json_t *changed(const json_t *value, unsigned way)
{
    static const json_int_t bits[BITS] = { 1, 2, 4, 0x10, 0x80, 0x400 };
    const char *text = json_string_value(value);
    g_autofree char *copy = g_strdup(text);
    size_t at;

    if (json_is_boolean(value))
        return json_boolean(!json_is_true(value));
    if (json_is_integer(value))
        return json_integer(way < BITS ? json_integer_value(value) ^ bits[way] : way - BITS);
    if (!text || !*text)
        return NULL;
    at = strlen(text) - 1;
    at -= MIN(at, at * way / (WAYS - 1));
    copy[at] = copy[at] == '5' ? '4' : '5';
    return json_string(copy);
}

typedef struct {
    const char *name;
    const json_t *good;
    json_t *state;
    unsigned n_kept, n_refused;
} Walk;

typedef enum { KEPT, REFUSED, DROPPED } Outcome;

/* In a machine of its own: states are for machines that no guest has touched. */
static Outcome try_state(Walk *walk)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *where = NULL;
    GoldenMachine machine = { 0 };
    bool taken = golden_machine_start(&machine, walk->name, walk->good, walk->state, &error);

    if (taken)
        where = not_saved(&machine, walk->state);
    else
        g_assert_nonnull(error);
    if (g_test_verbose() && (where || error))
        g_test_message("%s", where ? where : error->message);
    golden_machine_end(&machine);
    return !taken ? REFUSED : where ? DROPPED : KEPT;
}

/* What has no meaning for itself. */
static bool may_be_lost(const char *path)
{
    /* A message that waits for a vector which is not masked: there is none, it has been sent. */
    return g_str_has_suffix(path, ".pending");
}

/* Bits that a register does not have are dropped, but something must be kept or refused. */
static void try_values(Walk *walk, const json_t *old,
                       void (*set)(json_t *in, const void *where, json_t *value), json_t *in,
                       const void *where, const char *path)
{
    bool refused = false;

    for (unsigned way = 0; way < WAYS; way++) {
        Outcome outcome;

        set(in, where, changed(old, way));
        outcome = try_state(walk);
        refused |= outcome == REFUSED;
        if (outcome == KEPT) {
            walk->n_kept++;
            return;
        }
    }
    if (!refused && !may_be_lost(path))
        g_error("%s is lost", path);
    walk->n_refused++;
}

static void set_key(json_t *in, const void *where, json_t *value)
{
    json_object_set_new(in, where, value);
}

static void set_element(json_t *in, const void *where, json_t *value)
{
    json_array_set_new(in, *(const size_t *)where, value);
}

static bool is_value(const json_t *json)
{
    json_t *other = changed(json, 0);

    json_decref(other);
    return other != NULL;
}

static void walk_value(Walk *walk, json_t *value, const char *path);

static void walk_object(Walk *walk, json_t *object, const char *path)
{
    g_autoptr(GPtrArray) keys = g_ptr_array_new_with_free_func(g_free);
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value) g_ptr_array_add(keys, g_strdup(key));
    for (unsigned i = 0; i < keys->len; i++) {
        g_autofree char *name = g_strconcat(path, ".", keys->pdata[i], NULL);
        json_t *old = json_incref(json_object_get(object, keys->pdata[i]));

        if (strcmp(keys->pdata[i], "version") != 0 && is_value(old)) {
            try_values(walk, old, set_key, object, keys->pdata[i], name);
            json_object_set(object, keys->pdata[i], old);
        } else {
            walk_value(walk, old, name);
        }
        json_decref(old);
    }
}

static void walk_value(Walk *walk, json_t *value, const char *path)
{
    if (json_is_object(value))
        walk_object(walk, value, path);
    if (!json_is_array(value))
        return;
    for (size_t i = 0; i < json_array_size(value); i++) {
        /* Of long lists, some. */
        if (i >= 3 && json_array_size(value) > 8 && i < json_array_size(value) - 1)
            continue;
        g_autofree char *name = g_strdup_printf("%s[%zu]", path, i);
        json_t *old = json_incref(json_array_get(value, i));

        if (is_value(old)) {
            try_values(walk, old, set_element, value, &i, name);
            json_array_set(value, i, old);
        } else {
            walk_value(walk, old, name);
        }
        json_decref(old);
    }
}

/* One of each type, in whatever release and machine it comes first. */
static void walk_devices(Walk *walk, json_t *devices)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);
    const char *id;
    json_t *device;

    json_object_foreach(devices, id, device) g_ptr_array_add(ids, g_strdup(id));
    for (unsigned i = 0; i < ids->len; i++) {
        const char *type;

        device = json_object_get(devices, ids->pdata[i]);
        type = json_string_value(json_object_get(device, "type"));
        if (!g_hash_table_contains(walked, type)) {
            g_hash_table_add(walked, g_strdup(type));
            walk_value(walk, json_object_get(device, "state"), ids->pdata[i]);
        }
    }
}

static void test_every_field(gconstpointer opaque)
{
    Walk walk = { opaque, NULL, NULL, 0, 0 };
    json_t *devices, *net, *present, *good;

    if (skip) {
        g_test_skip(skip);
        return;
    }
    present = golden_machine_state(opaque);
    good = json_deep_copy(present);
    json_object_del(json_object_get(good, "devices"), GOLDEN_NET);
    walk.good = good;
    walk.state = json_deep_copy(present);
    devices = json_object_get(walk.state, "devices");
    net = json_incref(json_object_get(devices, GOLDEN_NET));
    g_assert_nonnull(net);
    /* A tap takes its time to come and go: it is only there where it is needed. */
    json_object_del(devices, GOLDEN_NET);
    walk_devices(&walk, devices);
    if (!g_hash_table_add(walked, (gpointer) "machine"))
        goto done;
    walk_value(&walk, json_object_get(walk.state, "ioapic"), "ioapic");
    /* One vCPU says for all. */
    walk_value(&walk, json_array_get(json_object_get(walk.state, "vcpus"), 0), "vcpus[0]");
    json_object_set(devices, GOLDEN_NET, net);
    walk.good = present;
    walk_value(&walk, json_object_get(net, "state"), GOLDEN_NET);
done:
    json_decref(net);
    g_test_message("%s: %u fields are kept, %u refused", (const char *)opaque, walk.n_kept,
                   walk.n_refused);
    g_assert_cmpuint(walk.n_kept, >=, walk.n_refused);
    json_decref(walk.state);
    json_decref(good);
    json_decref(present);
}

/* --- tables and structures --- */

static size_t field_bytes(const KumoStateField *field)
{
    static const size_t sizes[] = { 1, 2, 4, 8, sizeof(bool) };

    if (field->list || field->type == KUMO_STATE_BLOB || field->type == KUMO_STATE_STRING)
        return sizeof(void *);
    if (field->type == KUMO_STATE_BYTES)
        return field->count;
    return MAX(field->count, 1) *
           (field->type == KUMO_STATE_TABLE ? field->table->size : sizes[field->type]);
}

/* Every member of the structure has a row, and only one: what no row covers is too small to be a
 * member that is aligned as it has to be. */
static void check_table(const KumoStateTable *table, GHashTable *seen)
{
    g_autofree uint8_t *used = g_malloc0(table->size);
    g_autoptr(GHashTable) keys = g_hash_table_new(g_str_hash, g_str_equal);
    size_t gap = 0;

    if (!g_hash_table_add(seen, (gpointer)table))
        return;
    g_assert_cmpuint(table->version, >=, 1);
    for (size_t i = 0; i < table->n_fields; i++) {
        const KumoStateField *field = &table->fields[i];
        bool counted = field->list || field->type == KUMO_STATE_BLOB;

        if (!g_hash_table_add(keys, (gpointer)field->name) || field->since > table->version ||
            field->offset + field_bytes(field) > table->size ||
            (counted && (field->count_offset + sizeof(size_t) > table->size || !field->max)) ||
            (field->type == KUMO_STATE_STRING && !field->max) ||
            (field->type == KUMO_STATE_TABLE && !field->table))
            g_error("%s.%s: the row is wrong", table->name, field->name);
        for (size_t at = 0; at < field_bytes(field); at++)
            if (used[field->offset + at]++)
                g_error("%s.%s: overlaps another", table->name, field->name);
        for (size_t at = 0; counted && at < sizeof(size_t); at++)
            used[field->count_offset + at]++;
        if (field->table)
            check_table(field->table, seen);
    }
    for (size_t at = 0; at < table->size; at++) {
        gap = used[at] ? 0 : gap + 1;
        if (gap >= 8)
            g_error("%s: what is at %zu of %zu bytes has no row", table->name, at, table->size);
    }
}

static void test_tables(gconstpointer opaque)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    g_autoptr(GError) error = NULL;
    GoldenMachine machine = { 0 };
    const GPtrArray *devices;
    json_t *present;

    if (skip) {
        g_test_skip(skip);
        return;
    }
    present = golden_machine_state(opaque);
    g_assert_true(golden_machine_start(&machine, opaque, present, present, &error));
    devices = kumo_vm_machine(machine.vm)->devices;
    for (unsigned i = 0; i < devices->len; i++) {
        const KumoDevice *device = devices->pdata[i];

        if (device->ops->state)
            check_table(device->ops->state->table, seen);
    }
    check_table(&kumo_vcpu_state_table, seen);
    check_table(&kumo_irq_state_table, seen);
    g_assert_cmpuint(g_hash_table_size(seen), >, 15);
    golden_machine_end(&machine);
    json_decref(present);
}

/* --- files that are not whole --- */

typedef struct {
    char *directory, *config, *state, *memory;
} Files;

static void check_damaged(const Files *files, const char *text, size_t len, size_t at)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoSnapshot) snapshot = NULL;

    g_assert_true(g_file_set_contents(files->state, text, (gssize)len, NULL));
    snapshot = kumo_snapshot_open(files->directory, &error);
    if (snapshot)
        g_error("state.json is taken though it was damaged at %zu of %zu", at, len);
    g_assert_nonnull(strstr(error->message, "state.json"));
}

/* state.json, cut off behind every line of it, and with bits that have changed. */
static void test_damaged(gconstpointer opaque)
{
    g_autofree char *source = g_build_filename(GOLDEN_DIR, opaque, "state.json", NULL);
    g_autofree char *text = NULL;
    Files files = { .directory = g_dir_make_tmp("kumo-golden-XXXXXX", NULL) };
    size_t len = 0;

    files.config = g_build_filename(files.directory, "config.json", NULL);
    files.state = g_build_filename(files.directory, "state.json", NULL);
    files.memory = g_build_filename(files.directory, "memory-ranges", NULL);
    g_assert_true(g_file_set_contents(files.config, "{}", -1, NULL));
    g_assert_true(g_file_set_contents(files.memory, "", 0, NULL));
    g_assert_true(g_file_get_contents(source, &text, &len, NULL));
    for (size_t at = 0; at + 2 < len; at++)
        if (text[at] == '\n' && at % 5 == 0)
            check_damaged(&files, text, at, at);
    for (size_t at = 0; at < len; at += 331) {
        /* A blank that becomes another blank changes nothing. */
        if (g_ascii_isspace(text[at]))
            continue;
        text[at] ^= 1;
        check_damaged(&files, text, len, at);
        text[at] ^= 1;
    }
    g_remove(files.config);
    g_remove(files.state);
    g_remove(files.memory);
    g_assert_cmpint(g_rmdir(files.directory), ==, 0);
    g_free(files.config);
    g_free(files.state);
    g_free(files.memory);
    g_free(files.directory);
}

static void add_tests(const char *release, const char *machine)
{
    static const struct {
        const char *name;
        GTestDataFunc func;
    } tests[] = {
        { "load", test_load },
        { "every-field", test_every_field },
        { "tables", test_tables },
        { "damaged", test_damaged },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_autofree char *path =
            g_strdup_printf("/golden/%s/%s/%s", release, machine, tests[i].name);

        g_test_add_data_func_full(path, g_strdup_printf("%s/%s", release, machine), tests[i].func,
                                  g_free);
    }
}

static void add_release(const char *release)
{
    g_autofree char *path = g_build_filename(GOLDEN_DIR, release, NULL);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *machine;

    while (dir && (machine = g_dir_read_name(dir)))
        add_tests(release, machine);
}

int main(int argc, char **argv)
{
    static const char *const tap[] = { "ip",   "tuntap", "add",      "dev", "kumogolden",
                                       "mode", "tap",    "vnet_hdr", NULL };
    g_autoptr(GDir) dir = NULL;
    const char *release;
    int status;

    g_test_init(&argc, &argv, NULL);
    walked = g_hash_table_new(g_str_hash, g_str_equal);
    skip = kumo_test_enter_netns();
    /* One that stays: making it anew for every machine takes most of the time. */
    if (!skip && (!g_spawn_sync(NULL, (char **)tap, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL,
                                NULL, &status, NULL) ||
                  status != 0))
        skip = "ip(8) cannot make a tap";
    golden_machine_set_up();
    dir = g_dir_open(GOLDEN_DIR, 0, NULL);
    g_assert_nonnull(dir);
    while ((release = g_dir_read_name(dir)))
        add_release(release);
    status = g_test_run();
    golden_machine_tear_down();
    return status;
}
