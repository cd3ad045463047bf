/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/arch/x86_64/payload.h"

#include <errno.h>
#include <inttypes.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

bool kumo_x86_read_file_into(KumoMemory *memory, int fd, uint64_t offset, uint64_t gpa,
                             uint64_t len, const char *what, const char *path, GError **error)
{
    void *to = kumo_memory_at(memory, gpa, len);
    ssize_t n;

    if (!to) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s '%s': %" PRIu64 " bytes at %#" PRIx64 " do not fit into guest memory", what,
                    path, len, gpa);
        return false;
    }
    n = kumo_pread_full(fd, to, len, (off_t)offset);
    if (n < 0) {
        kumo_set_error_errno(error, errno, "cannot read %s '%s'", what, path);
        return false;
    }
    kumo_memory_mark_dirty(memory, gpa, (uint64_t)n);
    if ((uint64_t)n != len) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "%s '%s' became shorter while it was read",
                    what, path);
        return false;
    }
    return true;
}
