/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The payload loaders: the input is a kernel file. The first byte's high bit adds an initramfs. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm-core/arch/x86_64/boot.h"
#include "vmm-core/arch/x86_64/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MEMORY_BYTES = 8 << 20, MAX_FILE_BYTES = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(KumoMemory) memory = NULL;
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL;
    KumoPayloadConfig config = { .cmdline = (char *)(uintptr_t) "quiet" };
    KumoArchEntry entry;
    int fd;

    if (size < 1 || size > MAX_FILE_BYTES)
        return 0;
    fd = memfd_create("kernel", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data + 1, size - 1) != (ssize_t)(size - 1))
        abort();
    path = g_strdup_printf("/proc/self/fd/%d", fd);
    config.kernel = path;
    if (data[0] & 0x80)
        config.initramfs = path;

    memory = kumo_memory_new_for_test(0, MEMORY_BYTES);
    if (kumo_x86_load_payload(memory, &config, KUMO_X86_EBDA_GPA, &entry, &error)) {
        /* What was accepted starts in memory that the loader does not use itself. */
        if (error || !kumo_memory_at(memory, entry.regs.rip, 1) ||
            entry.regs.rip < KUMO_X86_LOW_USED_END)
            abort();
    } else if (!error) {
        abort();
    }
    close(fd);
    return 0;
}
