/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Payload loaders on hand-made files: good ones, and everything that can be wrong with one. */
#include <elf.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm-core/arch/x86_64/boot.h"
#include "vmm-core/arch/x86_64/layout.h"
#include "vmm-core/base/error.h"

#define MIB         (1ull << 20)
#define MEMORY_SIZE (32 * MIB)
#define LOAD_GPA    0x200000ull

typedef struct {
    char *dir;
    char *kernel;
    char *initramfs;
    KumoMemory *memory;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("kumo-boot-XXXXXX", NULL);
    f->kernel = g_build_filename(f->dir, "kernel", NULL);
    f->initramfs = g_build_filename(f->dir, "initramfs", NULL);
    f->memory = kumo_memory_new_for_test(0, MEMORY_SIZE);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    g_unlink(f->kernel);
    g_unlink(f->initramfs);
    g_rmdir(f->dir);
    g_free(f->dir);
    g_free(f->kernel);
    g_free(f->initramfs);
    kumo_memory_free(f->memory);
}

/* A good ELF file: two loaded segments and the note. */
typedef struct {
    Elf64_Ehdr header;
    Elf64_Phdr segments[3];
    struct {
        Elf64_Nhdr head;
        char name[4];
        uint32_t entry;
    } note;
    uint8_t text[100];
    uint8_t data[50];
} Image;

static void make_elf(Image *image)
{
    *image = (Image){
        .header = { .e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
                    .e_type = ET_EXEC,
                    .e_machine = EM_X86_64,
                    .e_version = EV_CURRENT,
                    .e_phoff = offsetof(Image, segments),
                    .e_ehsize = sizeof(Elf64_Ehdr),
                    .e_phentsize = sizeof(Elf64_Phdr),
                    .e_phnum = 3 },
        .segments = { { .p_type = PT_LOAD,
                        .p_offset = offsetof(Image, text),
                        .p_paddr = LOAD_GPA,
                        .p_filesz = sizeof(image->text),
                        .p_memsz = sizeof(image->text) },
                      { .p_type = PT_NOTE,
                        .p_offset = offsetof(Image, note),
                        .p_filesz = sizeof(image->note),
                        .p_memsz = sizeof(image->note),
                        .p_align = 4 },
                      { .p_type = PT_LOAD,
                        .p_offset = offsetof(Image, data),
                        .p_paddr = LOAD_GPA + 0x1000,
                        .p_filesz = sizeof(image->data),
                        .p_memsz = 0x2000 } },
        .note = { .head = { .n_namesz = 4, .n_descsz = 4, .n_type = 18 },
                  .name = "Xen",
                  .entry = LOAD_GPA + 16 },
    };
    memset(image->text, 0x90, sizeof(image->text));
    memset(image->data, 0xdd, sizeof(image->data));
}

static void write_file(const char *path, const void *bytes, size_t len)
{
    g_assert_true(g_file_set_contents(path, bytes, (gssize)len, NULL));
}

static bool load(Fixture *f, const char *initramfs, const char *cmdline, KumoArchEntry *entry,
                 GError **error)
{
    KumoPayloadConfig config = { .kernel = f->kernel,
                                 .initramfs = (char *)(uintptr_t)initramfs,
                                 .cmdline = (char *)(uintptr_t)cmdline };

    return kumo_x86_load_payload(f->memory, &config, 0xa0000, entry, error);
}

static uint64_t peek(Fixture *f, uint64_t gpa, unsigned n_bytes)
{
    uint64_t value = 0;

    g_assert_true(kumo_memory_read(f->memory, gpa, &value, n_bytes));
    return value;
}

static void expect_refused(Fixture *f, const char *initramfs, const char *cmdline,
                           const char *mentions)
{
    KumoArchEntry entry;
    g_autoptr(GError) error = NULL;

    g_assert_false(load(f, initramfs, cmdline, &entry, &error));
    g_assert_nonnull(error);
    g_assert_true(error->domain == KUMO_ERROR);
    g_assert_cmpint(error->code, !=, KUMO_ERROR_INTERNAL);
    if (!strstr(error->message, mentions))
        g_error("'%s' does not mention '%s'", error->message, mentions);
}

static void test_elf(Fixture *f, gconstpointer data)
{
    static const char initramfs[] = "the initramfs";
    Image image;
    KumoArchEntry entry;
    g_autoptr(GError) error = NULL;
    uint64_t at;

    make_elf(&image);
    write_file(f->kernel, &image, sizeof(image));
    write_file(f->initramfs, initramfs, sizeof(initramfs));
    g_assert_true(load(f, f->initramfs, "console=ttyS0", &entry, &error));
    g_assert_no_error(error);
    g_assert_cmpmem(kumo_memory_at(f->memory, LOAD_GPA, 100), 100, image.text, 100);
    g_assert_cmpmem(kumo_memory_at(f->memory, LOAD_GPA + 0x1000, 50), 50, image.data, 50);
    g_assert_cmpuint(peek(f, LOAD_GPA + 0x1000 + 50, 8), ==, 0);

    g_assert_cmphex(entry.regs.rip, ==, LOAD_GPA + 16);
    g_assert_cmphex(entry.regs.rbx, ==, 0x6000);
    g_assert_cmphex(entry.regs.rflags, ==, 2);
    g_assert_cmphex(entry.sregs.cr0 & ~0x10ull, ==, 1);
    g_assert_cmphex(entry.sregs.cr4, ==, 0);
    g_assert_cmphex(entry.sregs.efer, ==, 0);
    g_assert_cmphex(entry.sregs.cs.selector, ==, 0x8);
    g_assert_cmphex(entry.sregs.gdt.base, ==, 0x500);
    g_assert_cmphex(entry.sregs.idt.base, ==, 0x520);
    g_assert_cmphex(peek(f, 0x508, 8), ==, 0x00cf9b000000ffff);
    g_assert_cmphex(peek(f, 0x510, 8), ==, 0x00cf93000000ffff);
    g_assert_cmphex(peek(f, 0x518, 8), ==, 0x00008b0000000067);

    g_assert_cmphex(peek(f, 0x6000, 4), ==, 0x336ec578);
    g_assert_cmpuint(peek(f, 0x6004, 4), ==, 1);
    g_assert_cmpuint(peek(f, 0x600c, 4), ==, 1);
    g_assert_cmphex(peek(f, 0x6010, 8), ==, 0x6040);
    g_assert_cmphex(peek(f, 0x6018, 8), ==, 0x20000);
    g_assert_cmphex(peek(f, 0x6020, 8), ==, 0xa0000);
    g_assert_cmphex(peek(f, 0x6028, 8), ==, 0x7000);
    g_assert_cmpuint(peek(f, 0x6030, 4), ==, 3);
    at = peek(f, 0x6040, 8);
    g_assert_cmphex(at, ==, MEMORY_SIZE - 4096);
    g_assert_cmpuint(peek(f, 0x6048, 8), ==, sizeof(initramfs));
    g_assert_cmpmem(kumo_memory_at(f->memory, at, sizeof(initramfs)), sizeof(initramfs), initramfs,
                    sizeof(initramfs));
    g_assert_cmpstr(kumo_memory_at(f->memory, 0x20000, 64), ==, "console=ttyS0");
    g_assert_cmphex(peek(f, 0x7000 + 8, 8), ==, 0xa0000);
    g_assert_cmphex(peek(f, 0x7000 + 24, 8), ==, 0x100000);
    g_assert_cmphex(peek(f, 0x7000 + 24 + 8, 8), ==, MEMORY_SIZE - MIB);
    g_assert_cmpuint(peek(f, 0x7000 + 48 + 16, 4), ==, 2);
}

static void test_elf_refused(Fixture *f, gconstpointer data)
{
    Image image;

#define REFUSE(mentions, ...)                                                                      \
    do {                                                                                           \
        make_elf(&image);                                                                          \
        __VA_ARGS__;                                                                               \
        write_file(f->kernel, &image, sizeof(image));                                              \
        expect_refused(f, NULL, NULL, mentions);                                                   \
        expect_refused(f, NULL, NULL, f->kernel);                                                  \
    } while (0)

    REFUSE("64-bit", image.header.e_ident[EI_CLASS] = ELFCLASS32);
    REFUSE("64-bit", image.header.e_machine = EM_AARCH64);
    REFUSE("executable", image.header.e_type = ET_REL);
    REFUSE("program headers", image.header.e_phnum = 0);
    REFUSE("program headers", image.header.e_phnum = 0xffff);
    REFUSE("program headers", image.header.e_phentsize = 32);
    REFUSE("program headers", image.header.e_phoff = UINT64_MAX - 8);
    REFUSE("program headers", image.header.e_phoff = sizeof(image));
    REFUSE("outside the file", image.segments[0].p_offset = UINT64_MAX);
    REFUSE("outside the file", image.segments[0].p_offset = sizeof(image) - 99);
    REFUSE("in the file but", image.segments[0].p_filesz = UINT64_MAX);
    REFUSE("outside the file", image.segments[2].p_filesz = 0x1000);
    REFUSE("fit into guest", image.segments[0].p_memsz = UINT64_MAX);
    REFUSE("fit into guest", image.segments[0].p_memsz = UINT64_MAX - LOAD_GPA + 1);
    REFUSE("fit into guest", image.segments[0].p_paddr = UINT64_MAX - 4);
    REFUSE("fit into guest", image.segments[0].p_paddr = MEMORY_SIZE - 99);
    REFUSE("low memory", image.segments[0].p_paddr = 0);
    REFUSE("low memory", image.segments[0].p_paddr = 0x2f000);
    REFUSE("low memory", image.segments[0].p_paddr = 0x9fff0);
    REFUSE("low memory", image.segments[0].p_paddr = 0xf0000);
    REFUSE("overlap", image.segments[2].p_paddr = LOAD_GPA + 99);
    REFUSE("overlap", image.segments[2].p_paddr = LOAD_GPA - 0x1fff);
    REFUSE("PVH", image.segments[1].p_type = PT_NULL);
    REFUSE("PVH", image.note.head.n_type = 17);
    REFUSE("PVH", image.note.name[0] = 'x');
    REFUSE("PVH", image.note.head.n_namesz = UINT32_MAX);
    REFUSE("PVH", image.note.head.n_descsz = UINT32_MAX);
    REFUSE("PVH", image.note.head.n_descsz = 2);
    REFUSE("PVH", image.segments[1].p_filesz = 12);
    REFUSE("note segment", image.segments[1].p_filesz = UINT64_MAX);
    REFUSE("note segment", image.segments[1].p_offset = UINT64_MAX - 1);
    REFUSE("entry point", image.note.entry = LOAD_GPA - 1);
    REFUSE("entry point", image.note.entry = LOAD_GPA + 100);
#undef REFUSE
}

static void test_elf_truncated(Fixture *f, gconstpointer data)
{
    Image image;
    KumoArchEntry entry;

    make_elf(&image);
    for (size_t len = 0; len < sizeof(image); len++) {
        write_file(f->kernel, &image, len);
        if (len < offsetof(Image, data) + sizeof(image.data))
            expect_refused(f, NULL, NULL, f->kernel);
    }
    write_file(f->kernel, &image, offsetof(Image, data) + sizeof(image.data));
    g_assert_true(load(f, NULL, NULL, &entry, NULL));
}

/* A good bzImage: a setup of two sectors and 5000 bytes of kernel. */
enum {
    BZIMAGE_SETUP = 3 * 512,
    BZIMAGE_KERNEL = 5000,
    BZIMAGE_SIZE = BZIMAGE_SETUP + BZIMAGE_KERNEL
};

static void poke(uint8_t *file, unsigned at, uint64_t value, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++)
        file[at + i] = (uint8_t)(value >> (8 * i));
}

static void make_bzimage(uint8_t *file)
{
    memset(file, 0, BZIMAGE_SETUP);
    memset(file + BZIMAGE_SETUP, 0xcc, BZIMAGE_KERNEL);
    file[0x1f1] = 2;
    poke(file, 0x1fe, 0xaa55, 2);
    poke(file, 0x200, 0x6aeb, 2);
    memcpy(file + 0x202, "HdrS", 4);
    poke(file, 0x206, 0x020f, 2);
    file[0x211] = 1;
    poke(file, 0x22c, 0x7fffffff, 4);
    poke(file, 0x236, 2, 2);
    poke(file, 0x238, 2047, 4);
    poke(file, 0x258, 0x1000000, 8);
    poke(file, 0x260, 0x10000, 4);
}

static void test_bzimage(Fixture *f, gconstpointer data)
{
    uint8_t file[BZIMAGE_SIZE];
    KumoArchEntry entry;
    g_autoptr(GError) error = NULL;

    make_bzimage(file);
    write_file(f->kernel, file, sizeof(file));
    write_file(f->initramfs, "initramfs", 9);
    g_assert_true(load(f, f->initramfs, "quiet", &entry, &error));
    g_assert_no_error(error);
    g_assert_cmpmem(kumo_memory_at(f->memory, 0x100000, BZIMAGE_KERNEL), BZIMAGE_KERNEL,
                    file + BZIMAGE_SETUP, BZIMAGE_KERNEL);
    g_assert_cmphex(entry.regs.rip, ==, 0x100000);
    g_assert_cmphex(entry.regs.rsi, ==, 0x7000);
    g_assert_cmphex(entry.regs.rsp, ==, 0x8ff0);
    g_assert_cmphex(entry.regs.rbx, ==, 0);
    g_assert_cmphex(entry.sregs.cs.selector, ==, 0x10);
    g_assert_cmphex(entry.sregs.ds.selector, ==, 0x18);
    g_assert_cmphex(peek(f, 0x510, 8), ==, 0x00cf9b000000ffff);
    g_assert_cmphex(peek(f, 0x7000 + 0x210, 1), ==, 0xff);
    g_assert_cmphex(peek(f, 0x7000 + 0x206, 2), ==, 0x020f);
    g_assert_cmphex(peek(f, 0x7000 + 0x228, 4), ==, 0x20000);
    g_assert_cmphex(peek(f, 0x7000 + 0x218, 4), ==, MEMORY_SIZE - 4096);
    g_assert_cmpuint(peek(f, 0x7000 + 0x21c, 4), ==, 9);
    g_assert_cmphex(peek(f, 0x7000 + 0x70, 8), ==, 0xa0000);
    g_assert_cmpuint(peek(f, 0x7000 + 0x1e8, 1), ==, 3);
    g_assert_cmphex(peek(f, 0x7000 + 0x2d0 + 8, 8), ==, 0xa0000);
    g_assert_cmphex(peek(f, 0x7000 + 0x2d0 + 20, 8), ==, 0x100000);
    g_assert_cmpuint(peek(f, 0x7000 + 0x2d0 + 16, 4), ==, 1);

    /* A kernel that says so gets its initramfs below its limit. */
    poke(file, 0x236, 0, 2);
    poke(file, 0x22c, 0x17fffff, 4);
    write_file(f->kernel, file, sizeof(file));
    g_assert_true(load(f, f->initramfs, "quiet", &entry, &error));
    g_assert_cmphex(peek(f, 0x7000 + 0x218, 4), ==, 0x17ff000);
}

static void test_bzimage_refused(Fixture *f, gconstpointer data)
{
    uint8_t file[BZIMAGE_SIZE];
    g_autofree char *long_cmdline = g_strnfill(2048, 'x');

#define REFUSE(mentions, at, value, n_bytes)                                                       \
    do {                                                                                           \
        make_bzimage(file);                                                                        \
        poke(file, at, value, n_bytes);                                                            \
        write_file(f->kernel, file, sizeof(file));                                                 \
        expect_refused(f, NULL, NULL, mentions);                                                   \
    } while (0)
    REFUSE("neither", 0x1fe, 0, 2);
    REFUSE("neither", 0x202, 0, 4);
    REFUSE("protocol", 0x206, 0x0209, 2);
    REFUSE("protocol", 0x211, 0, 1);
    REFUSE("protected-mode", 0x1f1, 200, 1);
    REFUSE("setup header", 0x201, 0, 1);
    REFUSE("fit into guest", 0x258, UINT64_MAX, 8);
    REFUSE("fit into guest", 0x258, UINT64_MAX - 0x10000 + 1, 8);
    REFUSE("fit into guest", 0x260, UINT32_MAX, 4);
    REFUSE("fit into guest", 0x258, MEMORY_SIZE - 0xffff, 8);
#undef REFUSE
    make_bzimage(file);
    write_file(f->kernel, file, sizeof(file));
    expect_refused(f, NULL, long_cmdline, "cmdline");
    for (size_t len = 0; len <= BZIMAGE_SETUP; len++) {
        write_file(f->kernel, file, len);
        expect_refused(f, NULL, NULL, f->kernel);
    }
}

static void test_initramfs_refused(Fixture *f, gconstpointer data)
{
    Image image;

    make_elf(&image);
    write_file(f->kernel, &image, sizeof(image));
    expect_refused(f, "/nonexistent/initramfs", NULL, "/nonexistent/initramfs");
    expect_refused(f, f->dir, NULL, "regular file");
    write_file(f->initramfs, "", 0);
    expect_refused(f, f->initramfs, NULL, "empty");
    g_assert_cmpint(truncate(f->initramfs, 40 * MIB), ==, 0);
    expect_refused(f, f->initramfs, NULL, "fit into guest");
    /* over the kernel: all but the lowest two MiB and a bit */
    g_assert_cmpint(truncate(f->initramfs, (off_t)(MEMORY_SIZE - LOAD_GPA - 0x2000)), ==, 0);
    expect_refused(f, f->initramfs, NULL, "fit into guest");
    /* exactly above the kernel's memory is right */
    {
        KumoArchEntry entry;
        g_autoptr(GError) error = NULL;

        g_assert_cmpint(truncate(f->initramfs, (off_t)(MEMORY_SIZE - LOAD_GPA - 0x3000)), ==, 0);
        g_assert_true(load(f, f->initramfs, NULL, &entry, &error));
        g_assert_no_error(error);
    }
}

static void test_files_refused(Fixture *f, gconstpointer data)
{
    g_autofree char *fifo = g_build_filename(f->dir, "kernel", NULL);
    g_autofree char *cmdline = g_strnfill(KUMO_CMDLINE_MAX, 'x');
    KumoPayloadConfig none = { 0 };
    KumoArchEntry entry;
    Image image;
    g_autoptr(GError) error = NULL;

    g_assert_false(kumo_x86_load_payload(f->memory, &none, 0, &entry, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    expect_refused(f, NULL, NULL, "cannot open kernel");
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    expect_refused(f, NULL, NULL, "regular file");
    g_unlink(fifo);
    make_elf(&image);
    write_file(f->kernel, &image, sizeof(image));
    expect_refused(f, NULL, cmdline, "cmdline");
    cmdline[KUMO_CMDLINE_MAX - 1] = 0;
    g_assert_true(load(f, NULL, cmdline, &entry, NULL));
}

static void test_firmware(Fixture *f, gconstpointer data)
{
    Image image;
    KumoPayloadConfig config = { .firmware = f->kernel };
    KumoArchEntry entry;
    g_autoptr(GError) error = NULL;

    make_elf(&image);
    image.header.e_machine = EM_386; /* as EDK2's is */
    write_file(f->kernel, &image, sizeof(image));
    g_assert_true(kumo_x86_load_payload(f->memory, &config, 0xa0000, &entry, &error));
    g_assert_no_error(error);
    g_assert_cmphex(entry.regs.rip, ==, LOAD_GPA + 16);
    write_file(f->kernel, "x", 1);
    g_assert_false(kumo_x86_load_payload(f->memory, &config, 0xa0000, &entry, &error));
    g_assert_nonnull(strstr(error->message, "firmware"));
}

/* Flips bytes of good files at random: every outcome but a crash is right. */
static void test_garbage(Fixture *f, gconstpointer data)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(4711);

    for (unsigned round = 0; round < 3000; round++) {
        uint8_t file[BZIMAGE_SIZE];
        size_t len;
        KumoArchEntry entry;
        g_autoptr(GError) error = NULL;

        if (round % 3 == 0) {
            make_elf((Image *)(void *)file);
            len = sizeof(Image);
        } else if (round % 3 == 1) {
            make_bzimage(file);
            len = sizeof(file);
        } else {
            len = (size_t)g_rand_int_range(rand, 0, sizeof(file));
            for (size_t i = 0; i < len; i++)
                file[i] = (uint8_t)g_rand_int(rand);
            memcpy(file, ELFMAG, MIN(len, 4));
        }
        for (int i = g_rand_int_range(rand, 1, 8); i > 0 && len; i--) {
            /* mostly where the headers are */
            int32_t limit = (int32_t)MIN(len, g_rand_boolean(rand) ? 0x270 : len);

            file[g_rand_int_range(rand, 0, limit)] = (uint8_t)g_rand_int(rand);
        }
        write_file(f->kernel, file, len);
        if (!load(f, NULL, NULL, &entry, &error))
            g_assert_nonnull(strstr(error->message, f->kernel));
        else
            g_assert_no_error(error);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, func) g_test_add("/boot/" name, Fixture, NULL, set_up, func, tear_down)
    ADD("elf", test_elf);
    ADD("elf-refused", test_elf_refused);
    ADD("elf-truncated", test_elf_truncated);
    ADD("bzimage", test_bzimage);
    ADD("bzimage-refused", test_bzimage_refused);
    ADD("initramfs-refused", test_initramfs_refused);
    ADD("files-refused", test_files_refused);
    ADD("firmware", test_firmware);
    ADD("garbage", test_garbage);
#undef ADD
    return g_test_run();
}
