/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <linux/loop.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/devices/block/block_file.h"

static char *dir;

static KumoDiskConfig *make_disk(const char *name)
{
    KumoDiskConfig *disk = kumo_disk_config_new();

    disk->pci.id = g_strdup("_disk0");
    disk->path = g_build_filename(dir, name, NULL);
    return disk;
}

static void make_file(const KumoDiskConfig *disk, off_t size, off_t at, const void *content,
                      size_t len)
{
    kumo_auto_fd fd = open(disk->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, size), ==, 0);
    if (len)
        g_assert_cmpint(pwrite(fd, content, len, at), ==, (ssize_t)len);
}

static void assert_refused(const KumoDiskConfig *disk, KumoErrorCode code, const char *word)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoBlockFile) file = kumo_block_file_open(disk, true, &error);

    g_assert_null(file);
    g_assert_error(error, KUMO_ERROR, (int)code);
    g_assert_nonnull(strstr(error->message, disk->path));
    g_assert_nonnull(strstr(error->message, word));
}

static void test_open(void)
{
    g_autoptr(KumoDiskConfig) disk = make_disk("plain");
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoBlockFile) file = NULL;
    g_autofree char *serial = NULL;
    struct stat st;

    make_file(disk, 1 << 20, 0, NULL, 0);
    g_assert_cmpint(stat(disk->path, &st), ==, 0);
    serial = g_strdup_printf("%ju%ju%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_rdev,
                             (uintmax_t)st.st_ino);
    file = kumo_block_file_open(disk, true, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(file->size_bytes, ==, 1 << 20);
    g_assert_false(file->readonly);
    g_assert_cmpuint(file->logical_block_bytes, ==, 512);
    g_assert_cmpuint(strlen(file->serial), <=, 20);
    g_assert_true(g_str_has_prefix(serial, file->serial));
    g_assert_cmpint(fcntl(file->fd, F_GETFL) & O_NONBLOCK, ==, 0);
}

static void test_serial(void)
{
    g_autoptr(KumoDiskConfig) disk = make_disk("serial");
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoBlockFile) file = NULL;

    make_file(disk, 4096, 0, NULL, 0);
    disk->serial = g_strdup("12345678901234567890");
    file = kumo_block_file_open(disk, true, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(file->serial, ==, "12345678901234567890");
}

static void test_odd_sizes(void)
{
    g_autoptr(KumoDiskConfig) disk = make_disk("odd");
    g_autoptr(GError) error = NULL;

    make_file(disk, 1024 + 100, 0, NULL, 0);
    {
        g_autoptr(KumoBlockFile) file = kumo_block_file_open(disk, true, &error);

        g_assert_no_error(error);
        g_assert_cmpuint(file->size_bytes, ==, 1024);
    }
    make_file(disk, 511, 0, NULL, 0);
    assert_refused(disk, KUMO_ERROR_INVALID, "empty");
    make_file(disk, 0, 0, NULL, 0);
    assert_refused(disk, KUMO_ERROR_INVALID, "empty");
}

static void test_not_a_disk(void)
{
    g_autoptr(KumoDiskConfig) missing = make_disk("missing");
    g_autoptr(KumoDiskConfig) folder = make_disk("folder");
    g_autoptr(KumoDiskConfig) fifo = make_disk("fifo");
    g_autoptr(KumoDiskConfig) device = make_disk("x");

    assert_refused(missing, KUMO_ERROR_NOT_FOUND, "opening");
    g_assert_cmpint(mkdir(folder->path, 0700), ==, 0);
    assert_refused(folder, KUMO_ERROR_INVALID, "irectory");
    folder->readonly = true;
    assert_refused(folder, KUMO_ERROR_INVALID, "irectory");
    g_assert_cmpint(mkfifo(fifo->path, 0600), ==, 0);
    assert_refused(fifo, KUMO_ERROR_INVALID, "not a file");
    g_free(device->path);
    device->path = g_strdup("/dev/zero");
    assert_refused(device, KUMO_ERROR_INVALID, "not a file");
}

static void test_permission(void)
{
    g_autoptr(KumoDiskConfig) disk = make_disk("closed");

    uid_t uid = geteuid();

    make_file(disk, 4096, 0, NULL, 0);
    g_assert_cmpint(chmod(disk->path, 0), ==, 0);
    /* Root may open everything: be somebody else. */
    if (uid == 0)
        g_assert_cmpint(seteuid(65534), ==, 0);
    assert_refused(disk, KUMO_ERROR_DENIED, "opening");
    if (uid == 0)
        g_assert_cmpint(seteuid(uid), ==, 0);
}

/* Can somebody else lock what lies behind the first @len bytes? */
static bool rest_is_free(const KumoDiskConfig *disk, off_t len)
{
    kumo_auto_fd fd = open(disk->path, O_RDWR | O_CLOEXEC);
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = len };

    g_assert_cmpint(fd, >=, 0);
    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

static void test_lock_granularity(void)
{
    for (KumoLockGranularity g = KUMO_LOCK_BYTE_RANGE; g <= KUMO_LOCK_FULL; g++) {
        g_autoptr(KumoDiskConfig) disk = make_disk("granularity");
        g_autoptr(KumoBlockFile) file = NULL;
        g_autoptr(GError) error = NULL;

        make_file(disk, 8192, 0, NULL, 0);
        disk->lock_granularity = g;
        file = kumo_block_file_open(disk, true, &error);
        g_assert_no_error(error);
        g_assert_false(rest_is_free(disk, 8191));
        g_assert_cmpint(rest_is_free(disk, 8192), ==, g == KUMO_LOCK_BYTE_RANGE);
        /* The lock grows with the file. */
        g_assert_true(kumo_block_file_resize(file, 16384, &error));
        g_assert_no_error(error);
        g_assert_false(rest_is_free(disk, 16383));
        /* However two users differ, they see each other. */
        disk->lock_granularity = KUMO_LOCK_FULL - g;
        assert_refused(disk, KUMO_ERROR_CONFLICT, "lock");
    }
}

static void test_not_sparse(void)
{
    g_autoptr(KumoDiskConfig) disk = make_disk("preallocated");
    g_autoptr(GError) error = NULL;
    struct stat st;

    make_file(disk, (1 << 20) + 100, 0, NULL, 0);
    for (unsigned round = 0; round < 2; round++) {
        g_autoptr(KumoBlockFile) file = NULL;

        /* Read-only it is left alone. */
        disk->sparse = false;
        disk->readonly = round == 0;
        file = kumo_block_file_open(disk, true, &error);
        g_assert_no_error(error);
        g_assert_cmpint(stat(disk->path, &st), ==, 0);
        g_assert_cmpint(st.st_size, ==, (1 << 20) + 100);
        if (round == 0)
            g_assert_cmpint(st.st_blocks, <, (1 << 20) / 512);
        else
            g_assert_cmpint(st.st_blocks, >=, (1 << 20) / 512);
        if (round == 1) {
            g_assert_true(kumo_block_file_resize(file, 4 << 20, &error));
            g_assert_cmpint(stat(disk->path, &st), ==, 0);
            g_assert_cmpint(st.st_blocks, >=, (4 << 20) / 512);
        }
    }
}

/* A block device of 4096-byte sectors, which only root can make of a file. */
static void test_block_device(void)
{
    g_autoptr(KumoDiskConfig) disk = make_disk("image");
    g_autoptr(KumoDiskConfig) device = make_disk("none");
    g_autoptr(GError) error = NULL;
    kumo_auto_fd control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    kumo_auto_fd image = -1, loop = -1;
    int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    struct loop_config config = { .block_size = 4096, .info.lo_flags = LO_FLAGS_AUTOCLEAR };

    make_file(disk, 1 << 20, 0, NULL, 0);
    image = open(disk->path, O_RDWR | O_CLOEXEC);
    g_free(device->path);
    device->path = g_strdup_printf("/dev/loop%d", number);
    if (number >= 0)
        loop = open(device->path, O_RDWR | O_CLOEXEC);
    config.fd = (uint32_t)image;
    if (loop < 0 || ioctl(loop, LOOP_CONFIGURE, &config) < 0) {
        g_test_skip("no loop device can be made");
        return;
    }
    for (unsigned direct = 0; direct < 2; direct++) {
        g_autoptr(KumoBlockFile) file = NULL;

        device->direct = direct != 0;
        device->sparse = false; /* of no consequence */
        file = kumo_block_file_open(device, true, &error);
        g_assert_no_error(error);
        g_assert_true(file->block_device);
        g_assert_cmpuint(file->size_bytes, ==, 1 << 20);
        g_assert_cmpuint(file->logical_block_bytes, ==, 4096);
        g_assert_cmpuint(file->physical_block_bytes, ==, 4096);
        g_assert_cmpuint(file->min_io_bytes, ==, 4096);
        g_assert_cmpuint(file->align_offset_bytes, ==, 0);
        assert_refused(device, KUMO_ERROR_CONFLICT, "lock");
    }
}

static void test_locks(void)
{
    g_autoptr(KumoDiskConfig) disk = make_disk("locked");
    g_autoptr(GError) error = NULL;
    KumoBlockFile *writer, *reader, *second;

    make_file(disk, 4096, 0, NULL, 0);
    writer = kumo_block_file_open(disk, true, &error);
    g_assert_no_error(error);
    assert_refused(disk, KUMO_ERROR_CONFLICT, "lock");
    disk->readonly = true;
    assert_refused(disk, KUMO_ERROR_CONFLICT, "lock");
    kumo_block_file_close(writer);

    /* Readers share; nobody writes meanwhile. */
    reader = kumo_block_file_open(disk, true, &error);
    g_assert_no_error(error);
    second = kumo_block_file_open(disk, true, &error);
    g_assert_no_error(error);
    disk->readonly = false;
    assert_refused(disk, KUMO_ERROR_CONFLICT, "lock");
    kumo_block_file_close(second);
    kumo_block_file_close(reader);
    writer = kumo_block_file_open(disk, true, &error);
    g_assert_no_error(error);
    kumo_block_file_close(writer);
}

static void test_readonly_is_readonly(void)
{
    g_autoptr(KumoDiskConfig) disk = make_disk("ro");
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoBlockFile) file = NULL;

    make_file(disk, 4096, 0, NULL, 0);
    disk->readonly = true;
    file = kumo_block_file_open(disk, true, &error);
    g_assert_no_error(error);
    g_assert_cmpint(fcntl(file->fd, F_GETFL) & O_ACCMODE, ==, O_RDONLY);
}

static void assert_size_refused(KumoBlockFile *file, uint64_t size_bytes)
{
    uint64_t before = file->size_bytes;
    g_autoptr(GError) error = NULL;

    g_assert_false(kumo_block_file_resize(file, size_bytes, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_assert_nonnull(strstr(error->message, file->path));
    g_assert_cmpuint(file->size_bytes, ==, before);
}

static void test_resize(void)
{
    static const uint64_t sizes[] = { 8192, 512, 1 << 20 };
    g_autoptr(KumoDiskConfig) disk = make_disk("resize");
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoBlockFile) file = NULL;
    g_autoptr(KumoBlockFile) readonly = NULL;
    struct stat st;

    make_file(disk, 4096, 0, NULL, 0);
    file = kumo_block_file_open(disk, true, &error);
    g_assert_no_error(error);
    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        kumo_block_file_resize(file, sizes[i], &error);
        g_assert_no_error(error);
        g_assert_cmpuint(file->size_bytes, ==, sizes[i]);
        g_assert_cmpint(stat(disk->path, &st), ==, 0);
        g_assert_cmpuint((uint64_t)st.st_size, ==, sizes[i]);
    }
    assert_size_refused(file, 0);
    assert_size_refused(file, 513);
    assert_size_refused(file, UINT64_MAX);
    assert_size_refused(file, UINT64_MAX & ~511ULL);
    g_clear_pointer(&file, kumo_block_file_close);

    disk->readonly = true;
    readonly = kumo_block_file_open(disk, true, &error);
    g_assert_no_error(error);
    assert_size_refused(readonly, 4096);
    g_assert_cmpint(stat(disk->path, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 1 << 20);
}

static void test_containers(void)
{
    static const struct {
        const char *name, *magic;
        size_t len;
        off_t at;
    } cases[] = {
        { "qcow2", "QFI\xfb\0\0\0\3", 8, 0 },
        { "QED", "QED\0", 4, 0 },
        { "VHDX", "vhdxfile", 8, 0 },
        { "VMDK", "KDMV", 4, 0 },
        { "VMDK", "COWD", 4, 0 },
        { "VMDK", "# Disk DescriptorFile", 21, 0 },
        { "VDI", "\x7f\x10\xda\xbe", 4, 0x40 },
        { "VHD", "conectix", 8, 0 },
        { "VHD", "conectix", 8, (1 << 20) - 512 },
    };
    g_autoptr(KumoDiskConfig) disk = make_disk("container");

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        make_file(disk, 1 << 20, cases[i].at, cases[i].magic, cases[i].len);
        assert_refused(disk, KUMO_ERROR_NOT_SUPPORTED, cases[i].name);
    }
}

static void test_direct(void)
{
    g_autoptr(KumoDiskConfig) disk = make_disk("direct");
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoBlockFile) file = NULL;
    char pattern[3000], back[3000];
    struct iovec iov[2] = { { pattern, 1000 }, { pattern + 1000, 2000 } };
    struct iovec in = { back, sizeof(back) };

    make_file(disk, 1 << 20, 0, NULL, 0);
    disk->direct = true;
    file = kumo_block_file_open(disk, true, &error);
    if (g_error_matches(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED)) {
        g_test_skip("the file system has no O_DIRECT");
        return;
    }
    g_assert_no_error(error);
    g_assert_cmpuint(file->offset_align, >=, 512);
    g_assert_cmpuint(file->logical_block_bytes, >=, file->offset_align);

    /* Neither the buffers nor the range are aligned. */
    for (size_t i = 0; i < sizeof(pattern); i++)
        pattern[i] = (char)(i * 7 + 1);
    g_assert_cmpint(kumo_block_file_rw_unaligned(file, true, iov, 2, 777, sizeof(pattern)), ==,
                    3000);
    g_assert_cmpint(kumo_block_file_rw_unaligned(file, false, &in, 1, 777, sizeof(back)), ==, 3000);
    g_assert_cmpmem(pattern, sizeof(pattern), back, sizeof(back));
    /* What is around it was kept. */
    g_assert_cmpint(kumo_block_file_rw_unaligned(file, false, &in, 1, 776, 1), ==, 1);
    g_assert_cmpint(back[0], ==, 0);
    g_assert_cmpint(kumo_block_file_rw_unaligned(file, false, &in, 1, 3777, 1), ==, 1);
    g_assert_cmpint(back[0], ==, 0);
    g_assert_cmpint(kumo_block_file_flush(file), ==, 0);
    /* Beyond the end. */
    g_assert_cmpint(kumo_block_file_rw_unaligned(file, false, &in, 1, (1 << 20) - 100, 3000), <, 0);
}

static void remove_dir(void)
{
    g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
    const char *name;

    while (d && (name = g_dir_read_name(d))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);

        remove(path);
    }
    rmdir(dir);
    g_free(dir);
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("kumo-block-XXXXXX", NULL);
    g_assert_nonnull(dir);
    g_test_add_func("/block-file/open", test_open);
    g_test_add_func("/block-file/serial", test_serial);
    g_test_add_func("/block-file/odd-sizes", test_odd_sizes);
    g_test_add_func("/block-file/not-a-disk", test_not_a_disk);
    g_test_add_func("/block-file/permission", test_permission);
    g_test_add_func("/block-file/locks", test_locks);
    g_test_add_func("/block-file/lock-granularity", test_lock_granularity);
    g_test_add_func("/block-file/not-sparse", test_not_sparse);
    g_test_add_func("/block-file/block-device", test_block_device);
    g_test_add_func("/block-file/readonly", test_readonly_is_readonly);
    g_test_add_func("/block-file/resize", test_resize);
    g_test_add_func("/block-file/containers", test_containers);
    g_test_add_func("/block-file/direct", test_direct);
    status = g_test_run();
    remove_dir();
    return status;
}
