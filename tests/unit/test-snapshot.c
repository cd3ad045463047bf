/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fakes/fake_hv.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/core/vcpu_state.h"
#include "vmm-core/core/memory_file.h"
#include "vmm-core/core/userfault.h"
#include "vmm-core/migration/snapshot.h"

#define RAM_BYTES (32ULL << 20)
#define MIB       (1ULL << 20)

static const char *const names[] = { "config.json", "memory-ranges", "memory-checksums",
                                     "state.json" };

typedef struct {
    char *directory;
    KumoMemory *memory;
    json_t *config, *state;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    f->directory = g_dir_make_tmp("kumo-snapshot-XXXXXX", NULL);
    f->memory = kumo_memory_new_for_test(0, RAM_BYTES);
    f->config = json_pack("{s:i}", "cpus", 1);
    f->state = json_pack("{s:[i,i], s:s}", "b", 1, 2, "a", "text");
    memset(f->memory->regions[0].hva, 0x11, 5000);
    memset(f->memory->regions[0].hva + 5 * MIB, 0x22, MIB);
    f->memory->regions[0].hva[RAM_BYTES - 1] = 0x33;
    f->memory->regions[0].hva[20 * MIB] = 0; /* touched, and zero */
}

static void empty(Fixture *f)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(f->directory, names[i], NULL);

        g_unlink(path);
    }
}

static void tear_down(Fixture *f, gconstpointer data)
{
    empty(f);
    g_assert_cmpint(g_rmdir(f->directory), ==, 0);
    g_free(f->directory);
    kumo_memory_free(f->memory);
    json_decref(f->config);
    json_decref(f->state);
}

static unsigned count_files(Fixture *f)
{
    g_autoptr(GDir) dir = g_dir_open(f->directory, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    return n;
}

static bool write_snapshot(Fixture *f, GError **error)
{
    return kumo_snapshot_write(f->directory, f->config, f->state, f->memory, error);
}

static bool load(KumoSnapshot *snapshot, KumoMemory *memory, bool on_demand, GError **error)
{
    const KumoMemoryDemandWatch watch = { 0 };

    return on_demand ? kumo_snapshot_serve_memory(snapshot, memory, &watch, error)
                     : kumo_snapshot_load_memory(snapshot, memory, error);
}

static void load_and_compare(Fixture *f, bool on_demand)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoSnapshot) snapshot = kumo_snapshot_open(f->directory, &error);
    g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0, RAM_BYTES);

    g_assert_no_error(error);
    g_assert_true(json_equal(snapshot->config, f->config));
    g_assert_true(json_equal(snapshot->state, f->state));
    g_assert_true(load(snapshot, memory, on_demand, &error));
    g_assert_no_error(error);
    g_assert_cmpmem(memory->regions[0].hva, RAM_BYTES, f->memory->regions[0].hva, RAM_BYTES);
}

static void test_round_trip(Fixture *f, gconstpointer data)
{
    g_autofree char *path = g_build_filename(f->directory, "memory-ranges", NULL);
    g_autoptr(GError) error = NULL;
    struct stat st;

    g_assert_true(write_snapshot(f, &error));
    g_assert_no_error(error);
    g_assert_cmpint(g_stat(path, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, RAM_BYTES);
    g_assert_cmpint(st.st_blocks * 512, <, 2 * MIB);
    g_assert_cmpint(st.st_mode & 0777, ==, 0600);
    load_and_compare(f, false);
    load_and_compare(f, true);
}

/* What came from a file on demand is written to the next snapshot, touched or not. */
static void test_second_generation(Fixture *f, gconstpointer data)
{
    g_autoptr(KumoSnapshot) snapshot = NULL;
    KumoMemory *memory = kumo_memory_new_for_test(0, RAM_BYTES);
    KumoMemory *first = f->memory;

    g_assert_true(write_snapshot(f, NULL));
    snapshot = kumo_snapshot_open(f->directory, NULL);
    g_assert_true(load(snapshot, memory, true, NULL));
    empty(f);
    f->memory = memory;
    g_assert_true(write_snapshot(f, NULL));
    f->memory = first;
    kumo_memory_free(memory);
    load_and_compare(f, false);
}

/* Memory of a file: where that has holes is known without looking. */
static void test_shared(Fixture *f, gconstpointer data)
{
    KumoMemRegion *region = &f->memory->regions[0];
    KumoMemBacking *backing = (KumoMemBacking *)f->memory->backings;
    int fd = memfd_create("ram", MFD_CLOEXEC);

    g_assert_cmpint(ftruncate(fd, RAM_BYTES), ==, 0);
    g_assert_true(mmap(region->hva, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED, fd,
                       0) != MAP_FAILED);
    backing->fd = fd;
    backing->shared = true;
    memset(region->hva + 3 * MIB + 100, 0x44, 10000);
    region->hva[RAM_BYTES - 1] = 1;
    g_assert_true(write_snapshot(f, NULL));
    load_and_compare(f, false);
}

static void test_failures(Fixture *f, gconstpointer data)
{
    struct rlimit before, small;

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(f->directory, names[i], NULL);
        g_autofree char *text = NULL;
        g_autoptr(GError) error = NULL;

        g_assert_true(g_file_set_contents(path, "mine", -1, NULL));
        g_assert_false(write_snapshot(f, &error));
        g_assert_nonnull(strstr(error->message, names[i]));
        g_assert_cmpuint(count_files(f), ==, 1);
        g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
        g_assert_cmpstr(text, ==, "mine");
        g_unlink(path);
    }

    /* The disk is full. */
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    for (rlim_t limit = 0; limit <= RAM_BYTES - 4096; limit += RAM_BYTES / 4 - 1024) {
        g_autoptr(GError) error = NULL;
        bool ok;

        small = before;
        small.rlim_cur = limit;
        setrlimit(RLIMIT_FSIZE, &small);
        ok = write_snapshot(f, &error);
        setrlimit(RLIMIT_FSIZE, &before);
        g_assert_false(ok);
        g_assert_nonnull(error);
        g_assert_cmpuint(count_files(f), ==, 0);
    }
    g_assert_true(write_snapshot(f, NULL));
}

static void check_refused(Fixture *f, const char *message)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoSnapshot) snapshot = kumo_snapshot_open(f->directory, &error);
    g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0, RAM_BYTES);

    if (snapshot)
        g_assert_false(kumo_snapshot_load_memory(snapshot, memory, &error));
    g_assert_nonnull(error);
    g_assert_nonnull(strstr(error->message, message));
}

static void test_damaged(Fixture *f, gconstpointer data)
{
    g_assert_true(write_snapshot(f, NULL));
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(f->directory, names[i], NULL);
        g_autofree char *whole = NULL;
        gsize len;

        g_assert_true(g_file_get_contents(path, &whole, &len, NULL));
        g_assert_true(truncate(path, (off_t)len / 2) == 0);
        check_refused(f, names[i]);
        g_assert_true(truncate(path, 0) == 0);
        check_refused(f, names[i]);
        g_unlink(path);
        check_refused(f, names[i]);
        g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
        check_refused(f, names[i]);
        g_rmdir(path);
        for (gsize at = 0; strcmp(names[i], "state.json") == 0 && at + 2 < len; at++) {
            char old = whole[at];

            if (g_ascii_isspace(old))
                continue;
            whole[at] ^= 1;
            g_assert_true(g_file_set_contents(path, whole, (gssize)len, NULL));
            check_refused(f, names[i]);
            whole[at] = old;
        }
        g_assert_true(g_file_set_contents(path, whole, (gssize)len, NULL));
    }
    load_and_compare(f, false);
}

/* Turns a bit of what is at @at over. */
static void flip(Fixture *f, const char *name, off_t at)
{
    g_autofree char *path = g_build_filename(f->directory, name, NULL);
    kumo_auto_fd fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte = 0;

    g_assert_cmpint(pread(fd, &byte, 1, at), ==, 1);
    byte ^= 0x10;
    g_assert_cmpint(pwrite(fd, &byte, 1, at), ==, 1);
}

static void memory_event(void *opaque)
{
}

static void memory_failed(void *opaque, const GError *error)
{
    g_assert_nonnull(strstr(error->message, "memory-ranges"));
    g_assert_nonnull(strstr(error->message, "is damaged: what it has at "));
    ++*(_Atomic unsigned *)opaque;
}

/* Memory on demand: nothing of a damaged block gets to the guest; what is known to be zeros is not
 * even read. */
static void check_lost(Fixture *f, bool lost)
{
    _Atomic unsigned n_failed = 0;
    const KumoMemoryDemandWatch watch = { memory_event, memory_failed, &n_failed };
    g_autoptr(KumoSnapshot) snapshot = kumo_snapshot_open(f->directory, NULL);
    g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(0, RAM_BYTES);
    g_autoptr(GError) error = NULL;

    g_assert_true(kumo_snapshot_serve_memory(snapshot, memory, &watch, &error));
    g_assert_no_error(error);
    g_assert_cmpint(kumo_userfault_wait(memory->userfault, 10000, &error), ==, !lost);
    while (lost && !n_failed) /* it is told behind the lock */
        g_usleep(1000);
    g_assert_cmpuint(n_failed, ==, lost);
}

static void test_flipped(Fixture *f, gconstpointer data)
{
    static const struct {
        off_t at;
        bool zeros;
    } rows[] = {
        { 0, false },
        { 4999, false },
        { 8191, false }, /* of the page's rest, which is zeros */
        { 5 * MIB + 12345, false },
        { 6 * MIB - 1, false },
        { 10 * MIB, true }, /* in a hole */
        { 20 * MIB + 5, true },
        { RAM_BYTES - 1, false },
        { RAM_BYTES - 4096, false },
    };
    bool on_demand = kumo_userfault_check(NULL);

    g_assert_true(write_snapshot(f, NULL));
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        flip(f, "memory-ranges", rows[i].at);
        check_refused(f, "memory-ranges: is damaged: what it has at ");
        if (on_demand)
            check_lost(f, !rows[i].zeros);
        flip(f, "memory-ranges", rows[i].at);
    }
    for (off_t at = 0; at < 400; at += 7) {
        flip(f, "memory-checksums", at);
        check_refused(f, "memory-checksums: is damaged");
        flip(f, "memory-checksums", at);
    }
    load_and_compare(f, false);
    load_and_compare(f, true);
}

/* state.json as another program lays it out: what it means has still to be right. */
static void test_laid_out(Fixture *f, gconstpointer data)
{
    g_autofree char *path = g_build_filename(f->directory, "state.json", NULL);
    json_t *whole;

    g_assert_true(write_snapshot(f, NULL));
    whole = json_load_file(path, 0, NULL);
    g_assert_cmpint(json_dump_file(whole, path, JSON_INDENT(3)), ==, 0);
    load_and_compare(f, false);
    json_object_set_new(json_object_get(whole, "state"), "another", json_true());
    g_assert_cmpint(json_dump_file(whole, path, JSON_INDENT(3)), ==, 0);
    check_refused(f, "state.json: is damaged");
    json_decref(whole);
}

/* Of a kumo that wrote no checksums. */
static void test_without_checksums(Fixture *f, gconstpointer data)
{
    g_autofree char *state_path = g_build_filename(f->directory, "state.json", NULL);
    g_autofree char *sums_path = g_build_filename(f->directory, "memory-checksums", NULL);
    json_t *whole;

    g_assert_true(write_snapshot(f, NULL));
    whole = json_load_file(state_path, 0, NULL);
    g_assert_cmpint(json_object_del(whole, "memory_checksums"), ==, 0);
    g_assert_cmpint(json_dump_file(whole, state_path, 0), ==, 0);
    json_decref(whole);
    g_assert_cmpint(g_unlink(sums_path), ==, 0);
    load_and_compare(f, false);
    load_and_compare(f, true);
    /* Nothing tells. */
    flip(f, "memory-ranges", 5 * MIB);
    f->memory->regions[0].hva[5 * MIB] ^= 0x10;
    load_and_compare(f, false);
}

/* Blocks that lie in two parts of memory. */
static void test_edges(Fixture *f, gconstpointer data)
{
    enum { PAGE = 4096, FIRST = 37 * PAGE, SECOND = 21 * PAGE };
    const KumoMemoryConfig config = { .size_bytes = FIRST + SECOND };
    const KumoMemRange ranges[] = { { 0, FIRST }, { 16 * MIB, SECOND } };
    FakeHvVm *vm = fake_hv_vm_new();
    KumoMemory *memory = kumo_memory_new(&config, ranges, 2, 0, &vm->base, NULL);
    KumoMemory *copy = kumo_memory_new(&config, ranges, 2, 0, &vm->base, NULL);
    g_autoptr(KumoMemorySums) sums = kumo_memory_file_new_sums(memory);
    kumo_auto_fd fd = memfd_create("memory", MFD_CLOEXEC);
    g_autoptr(GError) error = NULL;

    for (unsigned i = 0; i < 2; i++) {
        for (uint64_t at = 0; at < ranges[i].size_bytes; at += 3 * PAGE)
            memset(memory->regions[i].hva + at, (int)(at / PAGE + i + 1), PAGE);
    }
    g_assert_true(kumo_memory_file_write(fd, memory, sums, &error));
    g_assert_true(kumo_memory_file_read(fd, copy, sums, &error));
    for (unsigned i = 0; i < 2; i++) {
        uint64_t offset = i ? FIRST : 0;

        g_assert_cmpmem(copy->regions[i].hva, ranges[i].size_bytes, memory->regions[i].hva,
                        ranges[i].size_bytes);
        g_assert_true(kumo_memory_file_read_part(fd, offset, &copy->backings[i], sums, &error));
    }
    g_assert_no_error(error);
    /* Each part finds what is wrong in the block that it has of both. */
    g_assert_cmpint(pwrite(fd, "x", 1, FIRST + 100), ==, 1);
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(GError) wrong = NULL;

        g_assert_false(
            kumo_memory_file_read_part(fd, i ? FIRST : 0, &copy->backings[i], sums, &wrong));
        g_assert_error(wrong, KUMO_ERROR, KUMO_ERROR_INVALID);
        g_assert_nonnull(strstr(wrong->message, "at 131072 "));
    }
    kumo_memory_free(memory);
    kumo_memory_free(copy);
    vm->base.ops->destroy(&vm->base);
}

/* What a file of checksums may say of itself. */
static void test_wrong_checksums(Fixture *f, gconstpointer data)
{
    g_autoptr(KumoMemorySums) sums = kumo_memory_file_new_sums(f->memory);
    size_t len = 0;
    g_autofree uint8_t *whole = kumo_memory_sums_write(sums, &len);
    g_autoptr(GError) error = NULL;

    g_assert_cmpuint(len, ==, 24 + RAM_BYTES / KUMO_SUMS_BLOCK_BYTES * 8);
    for (size_t n = 0; n < len; n++) {
        g_clear_error(&error);
        g_assert_null(kumo_memory_sums_read(whole, n, &error));
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    }
    for (unsigned i = 0; i < 24; i++) {
        KumoMemorySums *wrong;

        whole[i] ^= 0x80;
        wrong = kumo_memory_sums_read(whole, len, NULL);
        /* The size in its last bytes may be another of as many blocks. */
        g_assert_true(!wrong || (i >= 16 && kumo_memory_sums_file_bytes(wrong) != RAM_BYTES));
        kumo_memory_sums_unref(wrong);
        whole[i] ^= 0x80;
    }
    whole[8] = 9;
    g_clear_error(&error);
    g_assert_null(kumo_memory_sums_read(whole, len, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED);
}

static void test_urls(void)
{
    static const char *const wrong[] = { "", "file://", "/dir", "tcp:x", "file:/dir" };
    g_autofree char *good = kumo_snapshot_directory("x", "file:///dir", NULL);

    g_assert_cmpstr(good, ==, "/dir");
    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(kumo_snapshot_directory("some_url", wrong[i], &error));
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
        g_assert_nonnull(strstr(error->message, "some_url"));
    }
}

/* --- vCPU --- */

static const KumoHvBusOps no_bus = { 0 };

static FakeHvVcpu *vcpu_new(FakeHvVm *vm, unsigned index, uint32_t features)
{
    KumoHvVcpu *vcpu = vm->base.ops->vcpu_create(&vm->base, index, index, &no_bus, NULL, NULL);
    const KumoHvCpuid cpuid[] = { { .leaf = 0 }, { .leaf = 1, .ecx = features, .edx = 1u << 9 } };

    g_assert_true(vcpu->ops->set_cpuid(vcpu, cpuid, G_N_ELEMENTS(cpuid), NULL));
    return (FakeHvVcpu *)vcpu;
}

static void check_vcpu_refused(FakeHvVcpu *vcpu, const KumoVcpuState *state, const char *message)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(kumo_vcpu_state_load(&vcpu->base, state, 1000, &error));
    g_assert_nonnull(strstr(error->message, message));
}

static void test_vcpu(void)
{
    FakeHvVm *vm = fake_hv_vm_new();
    FakeHvVcpu *a = vcpu_new(vm, 0, 1u << 27 | 1u << 3), *b = vcpu_new(vm, 1, 1u << 3 | 1u << 5);
    FakeHvVcpu *less = vcpu_new(vm, 2, 1u << 5);
    const KumoHvMsr msrs[] = { { 0x10, 7 }, { 0x6e0, UINT64_MAX } };
    KumoVcpuState state, decoded;
    g_autoptr(GError) error = NULL;
    json_t *json;

    a->regs.rip = 0xfffffffff0001234;
    a->sregs.cs.selector = 8;
    a->sregs.gdt.limit = 0xffff;
    a->sregs.cr4 = 0x20;
    a->lapic.regs[63] = 5;
    a->debug_regs.dr7 = 0x400;
    a->events.nmi_pending = true;
    a->events.sipi_vector = 0x10;
    a->mp_state = KUMO_HV_MP_HALTED;
    a->xcr0 = 7;
    a->xsave[63] = 0xaa;
    g_assert_true(a->base.ops->set_msrs(&a->base, msrs, G_N_ELEMENTS(msrs), NULL));

    g_assert_true(kumo_vcpu_state_save(&a->base, &state, &error));
    json = kumo_state_encode(&kumo_vcpu_state_table, &state);
    g_assert_true(kumo_state_decode(&kumo_vcpu_state_table, json, "vcpu", &decoded, &error));
    g_assert_no_error(error);
    g_assert_true(kumo_vcpu_state_load(&b->base, &decoded, 1234, &error));
    g_assert_no_error(error);
    g_assert_cmpmem(&b->regs, sizeof(b->regs), &a->regs, sizeof(a->regs));
    g_assert_cmphex(b->sregs.cs.selector, ==, 8);
    g_assert_cmphex(b->sregs.gdt.limit, ==, 0xffff);
    g_assert_cmphex(b->sregs.cr4, ==, 0x20);
    g_assert_cmpmem(&b->lapic, sizeof(b->lapic), &a->lapic, sizeof(a->lapic));
    g_assert_cmphex(b->debug_regs.dr7, ==, 0x400);
    g_assert_true(b->events.nmi_pending);
    g_assert_cmphex(b->events.sipi_vector, ==, 0x10);
    g_assert_cmpint(b->mp_state, ==, KUMO_HV_MP_HALTED);
    g_assert_cmphex(b->xcr0, ==, 7);
    g_assert_cmphex(b->xsave[63], ==, 0xaa);
    g_assert_cmpuint(b->tsc_khz, ==, 1234);
    g_assert_cmpuint(b->msrs->len, ==, 2);
    g_assert_cmphex(g_array_index(b->msrs, KumoHvMsr, 1).value, ==, UINT64_MAX);
    /* OSXSAVE comes and goes with CR4: no feature of the host. */
    g_assert_cmphex(g_array_index(b->cpuid, KumoHvCpuid, 1).ecx, ==, 1u << 27 | 1u << 3);

    check_vcpu_refused(less, &decoded, "CPUID 0x1.0 ECX bits 0x00000008");
    vm->fail = "set_msrs";
    check_vcpu_refused(b, &decoded, "fake: set_msrs");
    vm->fail = NULL;
    decoded.xsave_len--;
    check_vcpu_refused(b, &decoded, "xsave of 63 bytes");
    decoded.xsave_format[0] = 'x';
    check_vcpu_refused(b, &decoded, "xsave_format");

    vm->fail = "get_all_msrs";
    kumo_state_clear(&kumo_vcpu_state_table, &decoded);
    g_assert_false(kumo_vcpu_state_save(&a->base, &decoded, &error));
    g_assert_nonnull(error);
    vm->fail = NULL;
    kumo_state_clear(&kumo_vcpu_state_table, &decoded);
    kumo_state_clear(&kumo_vcpu_state_table, &state);
    json_decref(json);
    a->base.ops->destroy(&a->base);
    b->base.ops->destroy(&b->base);
    less->base.ops->destroy(&less->base);
    vm->base.ops->destroy(&vm->base);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(path, func) g_test_add(path, Fixture, NULL, set_up, func, tear_down)
    ADD("/snapshot/round-trip", test_round_trip);
    ADD("/snapshot/second-generation", test_second_generation);
    ADD("/snapshot/shared", test_shared);
    ADD("/snapshot/failures", test_failures);
    ADD("/snapshot/damaged", test_damaged);
    ADD("/snapshot/laid-out", test_laid_out);
    ADD("/snapshot/flipped", test_flipped);
    ADD("/snapshot/without-checksums", test_without_checksums);
    ADD("/snapshot/edges", test_edges);
    ADD("/snapshot/wrong-checksums", test_wrong_checksums);
    g_test_add_func("/snapshot/urls", test_urls);
    g_test_add_func("/snapshot/vcpu", test_vcpu);
    return g_test_run();
}
