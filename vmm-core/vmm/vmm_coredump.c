/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vm.coredump and vm.read-memory in the VMM's state machine. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/vmm/vmm_state.h"

#define FILE_URL "file://"

enum { FILE_MODE = 0600 };

static bool write_file(KumoVmm *vmm, const char *path, bool direct, GError **error)
{
    kumo_auto_fd fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, FILE_MODE);

    if (fd < 0) {
        kumo_set_error_errno(error, errno, "core dump %s", path);
        return false;
    }
    if (kumo_vm_write_coredump(vmm->vm, fd, direct, error))
        return true;
    kumo_prefix_error(error, "core dump %s", path);
    unlink(path);
    return false;
}

bool kumo_vmm_coredump(KumoVmm *vmm, const char *destination_url, bool direct, GError **error)
{
    const char *path;
    bool was_paused = vmm->paused;
    bool ok;

    if (kumo_vmm_is_busy(vmm) || !vmm->vm)
        return kumo_vmm_refuse(vmm, "dump the guest's memory", error);
    if (!g_str_has_prefix(destination_url, FILE_URL "/")) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "destination_url: must be like file:///path/of/file");
        return false;
    }
    path = destination_url + strlen(FILE_URL);
    kumo_vmm_event(vmm, "coredumping", NULL);
    if (!was_paused && !kumo_vmm_pause(vmm, error))
        return false;
    ok = write_file(vmm, path, direct, error);
    /* The first failure is the one to tell. */
    if (!was_paused && !kumo_vmm_resume(vmm, ok ? error : NULL))
        return false;
    return ok;
}

uint8_t *kumo_vmm_read_memory(KumoVmm *vmm, uint64_t gpa, uint64_t len, GError **error)
{
    g_autofree uint8_t *data = NULL;

    if (kumo_vmm_is_busy(vmm) || !vmm->vm) {
        kumo_vmm_refuse(vmm, "read the guest's memory", error);
        return NULL;
    }
    data = g_malloc(len);
    if (!kumo_vm_read_memory(vmm->vm, gpa, data, len)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "address: 0x%" PRIx64 " is not allowed, there is no RAM in all of the %" PRIu64
                    " bytes from there on",
                    gpa, len);
        return NULL;
    }
    return g_steal_pointer(&data);
}
