/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/devices/block/block_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"

enum {
    MAX_ALIGN = 64 * 1024,     /* the largest block that O_DIRECT may ask for */
    RMW_BYTES = 4 * MAX_ALIGN, /* at a time in kumo_block_file_rw_unaligned() */
    LOCK_TRIES = 20,           /* when an image is opened */
    LOCK_PAUSE_US = 10 * 1000, /* between two */
};

/* How containers begin. */
typedef struct {
    const char *name;
    size_t offset;
    const char *magic;
    size_t len;
} ContainerMagic;

static const ContainerMagic container_magics[] = {
    { "qcow2", 0, "QFI\xfb", 4 },
    { "QED", 0, "QED\0", 4 },
    { "VHDX", 0, "vhdxfile", 8 },
    { "VHD", 0, "conectix", 8 },
    { "VMDK", 0, "KDMV", 4 },
    { "VMDK", 0, "COWD", 4 },
    { "VMDK", 0, "# Disk DescriptorFile", 21 },
    { "VDI", 0x40, "\x7f\x10\xda\xbe", 4 },
};

static bool refuse_container(const char *path, const char *format, GError **error)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                "disk %s: image format %s is not supported yet, only raw (convert it with qemu-img "
                "convert)",
                path, format);
    return false;
}

/* The container formats that a guest must not see raw. @fd is open without O_DIRECT or reads whole
 * blocks. */
static bool check_format(int fd, const char *path, uint64_t file_bytes, uint8_t *buf,
                         size_t buf_len, GError **error)
{
    ssize_t n = kumo_pread_full(fd, buf, buf_len, 0);

    if (n < 0) {
        kumo_set_error_errno(error, errno, "disk %s: reading the first sector", path);
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(container_magics); i++) {
        const ContainerMagic *m = &container_magics[i];

        if ((size_t)n >= m->offset + m->len && memcmp(buf + m->offset, m->magic, m->len) == 0)
            return refuse_container(path, m->name, error);
    }
    /* A fixed VHD is a raw image with a footer in its last 512 bytes. O_DIRECT may not reach an odd
     * end. */
    if (file_bytes >= buf_len && file_bytes % KUMO_SECTOR_SIZE == 0) {
        uint64_t start = kumo_align_down(file_bytes - KUMO_SECTOR_SIZE, buf_len);
        size_t at = file_bytes - KUMO_SECTOR_SIZE - start;

        n = kumo_pread_full(fd, buf, buf_len, (off_t)start);
        if (n >= (ssize_t)(at + 8) && memcmp(buf + at, "conectix", 8) == 0)
            return refuse_container(path, "VHD", error);
    }
    return true;
}

/* Finds out what O_DIRECT wants by trying: the smallest block that can be read into a buffer
 * aligned no better. */
static bool probe_alignment(KumoBlockFile *file, uint8_t *buf, GError **error)
{
    ssize_t n = -1;

    file->mem_align = file->offset_align = 1;
    if (!file->direct)
        return true;
    for (uint32_t align = KUMO_SECTOR_SIZE; align <= MAX_ALIGN; align *= 2) {
        /* The buffer is aligned to MAX_ALIGN; make it exactly as bad as claimed to be enough. */
        n = pread(file->fd, buf + align, align, 0);
        if (n >= 0) {
            file->mem_align = file->offset_align = align;
            return true;
        }
        if (errno != EINVAL)
            break;
    }
    kumo_set_error_errno(error, errno, "disk %s: reading with direct=on", file->path);
    return false;
}

/* The kernel lets go of a lock that a killed process held a little after that has ended, when the
 * requests of its io_uring are gone too. A VM that is started again at once waits for that. */
static bool try_lock(int fd, const struct flock *lock, unsigned tries)
{
    for (unsigned i = 1; fcntl(fd, F_OFD_SETLK, lock) < 0; i++) {
        if ((errno != EAGAIN && errno != EACCES) || i >= tries)
            return false;
        g_usleep(LOCK_PAUSE_US);
    }
    return true;
}

/* Of @len bytes; a length of 0 means to fcntl() everything, whatever length the file may get. */
static bool lock_file(KumoBlockFile *file, uint64_t len, unsigned tries, GError **error)
{
    struct flock lock = { .l_type = file->readonly ? F_RDLCK : F_WRLCK,
                          .l_whence = SEEK_SET,
                          .l_len = file->lock_all ? 0 : (off_t)MIN(len, G_MAXINT64) };

    file->locked = try_lock(file->fd, &lock, tries);
    if (file->locked)
        return true;
    if (errno == EAGAIN || errno == EACCES) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT,
                    "disk %s: another process or another disk of this VM uses the image (no %s "
                    "lock to be had)",
                    file->path, file->readonly ? "read" : "write");
        return false;
    }
    if (errno == ENOLCK || errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) {
        kumo_warn(
            "disk %s: the file system has no locks (%s); nothing keeps a second VM from writing it",
            file->path, g_strerror(errno));
        return true;
    }
    kumo_set_error_errno(error, errno, "disk %s: locking", file->path);
    return false;
}

/* Allocates what the file does not have blocks for yet. */
static bool preallocate(KumoBlockFile *file, uint64_t file_bytes, GError **error)
{
    int result;

    if (file->sparse || file->readonly || file->block_device)
        return true;
    do
        result = fallocate(file->fd, 0, 0, (off_t)file_bytes);
    while (result < 0 && errno == EINTR);
    if (result == 0)
        return true;
    if (errno == EOPNOTSUPP || errno == ENOSYS) {
        kumo_warn("disk %s: sparse=off: the file system cannot allocate in advance", file->path);
        return true;
    }
    kumo_set_error_errno(error, errno,
                         "disk %s: sparse=off: allocating %" G_GUINT64_FORMAT " bytes", file->path,
                         file_bytes);
    return false;
}

static bool measure_block_device(KumoBlockFile *file, uint64_t *ret_bytes, GError **error)
{
    int logical = 0, align_offset = 0;
    unsigned physical = 0, io_min = 0, io_opt = 0;

    if (ioctl(file->fd, BLKGETSIZE64, ret_bytes) < 0) {
        kumo_set_error_errno(error, errno, "disk %s: size of the block device", file->path);
        return false;
    }
    /* Without these the defaults of a plain 512-byte disk stay. */
    if (ioctl(file->fd, BLKSSZGET, &logical) == 0 && kumo_is_pow2(logical) &&
        logical >= KUMO_SECTOR_SIZE)
        file->logical_block_bytes = logical;
    if (ioctl(file->fd, BLKPBSZGET, &physical) == 0 && kumo_is_pow2(physical))
        file->physical_block_bytes = physical;
    if (ioctl(file->fd, BLKIOMIN, &io_min) == 0)
        file->min_io_bytes = io_min;
    if (ioctl(file->fd, BLKIOOPT, &io_opt) == 0)
        file->opt_io_bytes = io_opt;
    if (ioctl(file->fd, BLKALIGNOFF, &align_offset) == 0 && align_offset > 0)
        file->align_offset_bytes = (uint32_t)align_offset;
    return true;
}

static bool measure(KumoBlockFile *file, const struct stat *st, uint64_t *ret_bytes, GError **error)
{
    file->logical_block_bytes = KUMO_SECTOR_SIZE;
    file->physical_block_bytes = KUMO_SECTOR_SIZE;
    if (file->block_device) {
        if (!measure_block_device(file, ret_bytes, error))
            return false;
    } else {
        *ret_bytes = (uint64_t)st->st_size;
        if (kumo_is_pow2(st->st_blksize) && st->st_blksize >= KUMO_SECTOR_SIZE &&
            st->st_blksize <= MAX_ALIGN)
            file->physical_block_bytes = st->st_blksize;
    }
    file->size_bytes = kumo_align_down(*ret_bytes, KUMO_SECTOR_SIZE);
    if (file->size_bytes == 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "disk %s: is empty (%" G_GUINT64_FORMAT " bytes)", file->path, *ret_bytes);
        return false;
    }
    if (file->size_bytes != *ret_bytes)
        kumo_warn("disk %s: size %" G_GUINT64_FORMAT
                  " is not a multiple of %d: the guest does not see the last "
                  "%" G_GUINT64_FORMAT " bytes",
                  file->path, *ret_bytes, KUMO_SECTOR_SIZE, *ret_bytes - file->size_bytes);
    return true;
}

static void set_serial(KumoBlockFile *file, const KumoDiskConfig *config, const struct stat *st)
{
    g_autofree char *derived = NULL;

    if (!config->serial)
        derived = g_strdup_printf("%ju%ju%ju", (uintmax_t)st->st_dev, (uintmax_t)st->st_rdev,
                                  (uintmax_t)st->st_ino);
    g_strlcpy(file->serial, config->serial ? config->serial : derived, sizeof(file->serial));
}

static bool open_fd(KumoBlockFile *file, struct stat *ret_st, GError **error)
{
    /* Non-blocking so that a FIFO in place of an image does not hang the VMM; taken back below. */
    int flags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (file->readonly ? O_RDONLY : O_RDWR) |
                (file->direct ? O_DIRECT : 0);

    file->fd = open(file->path, flags);
    if (file->fd < 0) {
        if (errno == EINVAL && file->direct)
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                        "disk %s: direct=on: the file system has no O_DIRECT", file->path);
        else
            kumo_set_error_errno(error, errno, "disk %s: opening %s", file->path,
                                 file->readonly ? "read-only" : "for reading and writing");
        return false;
    }
    if (fstat(file->fd, ret_st) < 0) {
        kumo_set_error_errno(error, errno, "disk %s", file->path);
        return false;
    }
    if (!S_ISREG(ret_st->st_mode) && !S_ISBLK(ret_st->st_mode)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "disk %s: is %s, not a file or a block device", file->path,
                    S_ISDIR(ret_st->st_mode) ? "a directory" : "something else");
        return false;
    }
    if (!kumo_fd_set_nonblock(file->fd, false)) {
        kumo_set_error_errno(error, errno, "disk %s", file->path);
        return false;
    }
    file->block_device = S_ISBLK(ret_st->st_mode);
    return true;
}

KumoBlockFile *kumo_block_file_open(const KumoDiskConfig *config, bool lock, GError **error)
{
    g_autoptr(KumoBlockFile) file = g_new0(KumoBlockFile, 1);
    uint8_t *buf;
    uint64_t file_bytes;
    struct stat st;
    bool ok;

    file->fd = -1;
    g_mutex_init(&file->unaligned_lock);
    file->path = g_strdup(config->path);
    file->readonly = config->readonly;
    file->direct = config->direct;
    file->sparse = config->sparse;
    file->lock_all = config->lock_granularity == KUMO_LOCK_FULL;
    if (!file->path || !*file->path) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "disk %s: path is missing",
                    config->pci.id);
        return NULL;
    }
    if (!open_fd(file, &st, error) || !measure(file, &st, &file_bytes, error))
        return NULL;

    buf = aligned_alloc(MAX_ALIGN, 2 * MAX_ALIGN);
    if (!buf) {
        kumo_set_error_errno(error, ENOMEM, "disk %s", file->path);
        return NULL;
    }
    ok = probe_alignment(file, buf, error) &&
         check_format(file->fd, file->path, file_bytes, buf,
                      MAX(file->offset_align, KUMO_SECTOR_SIZE), error);
    free(buf);
    if (!ok || (lock && !lock_file(file, file_bytes, LOCK_TRIES, error)) ||
        !preallocate(file, file_bytes, error))
        return NULL;

    if (file->direct) {
        file->logical_block_bytes = MAX(file->logical_block_bytes, file->offset_align);
        file->physical_block_bytes = MAX(file->physical_block_bytes, file->logical_block_bytes);
        if (file->size_bytes % file->offset_align)
            kumo_warn(
                "disk %s: size is not a multiple of the %u bytes that direct=on transfers at once",
                file->path, file->offset_align);
    }
    file->discard_granularity_bytes = MAX(file->physical_block_bytes, file->logical_block_bytes);
    set_serial(file, config, &st);
    return g_steal_pointer(&file);
}

static bool remeasure_block_device(KumoBlockFile *file, uint64_t wanted_bytes, GError **error)
{
    uint64_t size_bytes = 0;

    if (ioctl(file->fd, BLKGETSIZE64, &size_bytes) < 0) {
        kumo_set_error_errno(error, errno, "disk %s: size of the block device", file->path);
        return false;
    }
    if (size_bytes < KUMO_SECTOR_SIZE || (wanted_bytes && wanted_bytes != size_bytes)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "disk %s: size %" G_GUINT64_FORMAT " is not allowed: the block device has "
                    "%" G_GUINT64_FORMAT " bytes",
                    file->path, wanted_bytes, size_bytes);
        return false;
    }
    file->size_bytes = kumo_align_down(size_bytes, KUMO_SECTOR_SIZE);
    return true;
}

bool kumo_block_file_resize(KumoBlockFile *file, uint64_t size_bytes, GError **error)
{
    if (file->block_device)
        return remeasure_block_device(file, size_bytes, error);
    if (file->readonly) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "disk %s: is read-only: its size stays",
                    file->path);
        return false;
    }
    if (size_bytes == 0 || size_bytes % KUMO_SECTOR_SIZE || size_bytes > G_MAXINT64) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "disk %s: size %" G_GUINT64_FORMAT " is not allowed, must be a multiple of %d",
                    file->path, size_bytes, KUMO_SECTOR_SIZE);
        return false;
    }
    /* Allocating makes a file longer, too, and so leaves it as it is if there is no room. */
    if (size_bytes > file->size_bytes &&
        (!lock_file(file, size_bytes, 1, error) || !preallocate(file, size_bytes, error)))
        return false;
    if (ftruncate(file->fd, (off_t)size_bytes) < 0) {
        kumo_set_error_errno(error, errno, "disk %s: setting the size %" G_GUINT64_FORMAT,
                             file->path, size_bytes);
        return false;
    }
    file->size_bytes = size_bytes;
    return true;
}

bool kumo_block_file_lock(KumoBlockFile *file, GError **error)
{
    uint64_t end = kumo_align_down(file->size_bytes, MAX_ALIGN);

    if (!lock_file(file, file->size_bytes, 1, error))
        return false;
    /* What was looked at when it was opened may have been written since on another host. */
    posix_fadvise(file->fd, 0, 2 * MAX_ALIGN, POSIX_FADV_DONTNEED);
    posix_fadvise(file->fd, (off_t)end, 0, POSIX_FADV_DONTNEED);
    return true;
}

void kumo_block_file_unlock(KumoBlockFile *file)
{
    struct flock unlock = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

    fcntl(file->fd, F_OFD_SETLK, &unlock);
    file->locked = false;
}

void kumo_block_file_close(KumoBlockFile *file)
{
    if (!file)
        return;
    if (file->fd >= 0) {
        /* A ring that is being torn down in the background still refers to the file, and with it to
         * its lock. */
        kumo_block_file_unlock(file);
        close(file->fd);
    }
    g_mutex_clear(&file->unaligned_lock);
    g_free(file->path);
    g_free(file);
}

/* Copies @len bytes between @buf and byte @offset of @iov on. */
static void iov_copy(const struct iovec *iov, unsigned n_iov, uint64_t offset, uint8_t *buf,
                     size_t len, bool to_iov)
{
    for (unsigned i = 0; i < n_iov && len; i++) {
        size_t n;

        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        n = MIN(iov[i].iov_len - offset, len);
        if (to_iov)
            memcpy((uint8_t *)iov[i].iov_base + offset, buf, n);
        else
            memcpy(buf, (uint8_t *)iov[i].iov_base + offset, n);
        buf += n;
        len -= n;
        offset = 0;
    }
}

int64_t kumo_block_file_rw_unaligned(KumoBlockFile *file, bool write, const struct iovec *iov,
                                     unsigned n_iov, uint64_t offset, uint64_t len)
{
    uint64_t align = MAX(file->offset_align, KUMO_SECTOR_SIZE);
    uint64_t done = 0;
    int64_t result = (int64_t)len;
    uint8_t *buf = aligned_alloc(MAX_ALIGN, RMW_BYTES);

    if (!buf)
        return -ENOMEM;
    g_mutex_lock(&file->unaligned_lock);
    while (done < len) {
        uint64_t at = offset + done;
        uint64_t start = kumo_align_down(at, align);
        uint64_t n = MIN(len - done, RMW_BYTES - (at - start));
        size_t span = kumo_align_up(at - start + n, align);
        ssize_t got = kumo_pread_full(file->fd, buf, span, (off_t)start);

        if (got < 0 || (uint64_t)got < at - start + n) {
            result = got < 0 ? -errno : -EIO;
            break;
        }
        iov_copy(iov, n_iov, done, buf + (at - start), n, !write);
        if (write) {
            /* @got: at the end of an odd-sized file do not grow it. */
            ssize_t put = pwrite(file->fd, buf, got, (off_t)start);

            if (put != got) {
                result = put < 0 ? -errno : -EIO;
                break;
            }
        }
        done += n;
    }
    g_mutex_unlock(&file->unaligned_lock);
    free(buf);
    return result;
}

int kumo_block_file_flush(KumoBlockFile *file)
{
    return fdatasync(file->fd) == 0 ? 0 : -errno;
}
