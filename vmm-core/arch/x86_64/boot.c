/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/arch/x86_64/boot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm-core/arch/x86_64/bzimage.h"
#include "vmm-core/arch/x86_64/elf.h"
#include "vmm-core/arch/x86_64/layout.h"
#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"

#define PAGE_BYTES 4096ull

/* struct hvm_start_info, version 1, and what it points to. */
typedef struct {
    uint32_t magic;
    uint32_t version;
    uint32_t flags;
    uint32_t nr_modules;
    uint64_t modlist_paddr;
    uint64_t cmdline_paddr;
    uint64_t rsdp_paddr;
    uint64_t memmap_paddr;
    uint32_t memmap_entries;
    uint32_t reserved;
} PvhStartInfo;

typedef struct {
    uint64_t paddr;
    uint64_t size;
    uint64_t cmdline_paddr;
    uint64_t reserved;
} PvhModule;

typedef struct {
    uint64_t addr;
    uint64_t size;
    uint32_t type;
    uint32_t reserved;
} PvhMapEntry;

G_STATIC_ASSERT(sizeof(PvhStartInfo) == 56);
G_STATIC_ASSERT(sizeof(PvhModule) == 32);
G_STATIC_ASSERT(sizeof(PvhMapEntry) == 24);

#define PVH_MAGIC 0x336ec578u

/* Descriptors: 32-bit code and data over 4 GiB, a busy TSS of 104 bytes. */
#define GDT_CODE 0x00cf9b000000ffffull
#define GDT_DATA 0x00cf93000000ffffull
#define GDT_TSS  0x00008b0000000067ull

static int open_regular(const char *what, const char *path, uint64_t *ret_size, GError **error)
{
    /* Non-blocking, so that opening a FIFO cannot hang; regular files do not care. */
    kumo_auto_fd fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        kumo_set_error_errno(error, errno, "cannot open %s '%s'", what, path);
        return -1;
    }
    if (!S_ISREG(st.st_mode)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s '%s' is not a regular file", what,
                    path);
        return -1;
    }
    *ret_size = (uint64_t)st.st_size;
    return kumo_fd_steal(&fd);
}

static bool load_image(KumoMemory *memory, const char *what, const char *path, KumoX86Payload *ret,
                       GError **error)
{
    uint8_t head[KUMO_X86_PROBE_BYTES];
    uint64_t size = 0;
    kumo_auto_fd fd = open_regular(what, path, &size, error);
    ssize_t n;

    if (fd < 0)
        return false;
    n = kumo_pread_full(fd, head, sizeof(head), 0);
    if (n < 0) {
        kumo_set_error_errno(error, errno, "cannot read %s '%s'", what, path);
        return false;
    }
    if (kumo_x86_elf_probe(head, (size_t)n))
        return kumo_x86_elf_load(memory, fd, size, what, path, ret, error);
    if (kumo_x86_bzimage_probe(head, (size_t)n))
        return kumo_x86_bzimage_load(memory, fd, size, what, path, ret, error);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "%s '%s' is neither an ELF file with a PVH entry point nor a bzImage", what, path);
    return false;
}

/* At the top of the RAM below 4 GiB, or as high as the payload allows. */
static bool load_initramfs(KumoMemory *memory, const char *path, const KumoX86Payload *payload,
                           uint64_t *ret_gpa, uint64_t *ret_size, GError **error)
{
    uint64_t size = 0;
    kumo_auto_fd fd = open_regular("initramfs", path, &size, error);
    uint64_t top = MIN(kumo_x86_low_ram_end(memory), payload->initramfs_limit);
    uint64_t gpa;

    if (fd < 0)
        return false;
    if (size == 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "initramfs '%s' is empty", path);
        return false;
    }
    gpa = size <= top ? kumo_align_down(top - size, PAGE_BYTES) : 0;
    if (gpa < KUMO_X86_HIGH_RAM_GPA ||
        kumo_range_overlap(gpa, size, payload->start_gpa, payload->end_gpa - payload->start_gpa)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "initramfs '%s' of %" PRIu64 " bytes does not fit into guest memory beside the "
                    "kernel",
                    path, size);
        return false;
    }
    if (!kumo_x86_read_file_into(memory, fd, 0, gpa, size, "initramfs", path, error))
        return false;
    *ret_gpa = gpa;
    *ret_size = size;
    return true;
}

static bool write_cmdline(KumoMemory *memory, const char *cmdline, uint64_t max, GError **error)
{
    size_t len = strlen(cmdline);

    if (len > max) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "payload: cmdline has %zu bytes, the kernel takes at most %" PRIu64, len, max);
        return false;
    }
    if (!kumo_memory_write(memory, KUMO_X86_CMDLINE_GPA, cmdline, len + 1)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INTERNAL, "no memory for the command line");
        return false;
    }
    return true;
}

static bool write_start_info(KumoMemory *memory, uint64_t initramfs_gpa, uint64_t initramfs_size,
                             uint64_t rsdp_gpa)
{
    KumoX86MapEntry map[KUMO_X86_MAP_MAX];
    PvhMapEntry entries[KUMO_X86_MAP_MAX] = { 0 };
    PvhModule module = { .paddr = initramfs_gpa, .size = initramfs_size };
    PvhStartInfo info = {
        .magic = PVH_MAGIC,
        .version = 1,
        .nr_modules = initramfs_size ? 1 : 0,
        .modlist_paddr = initramfs_size ? KUMO_X86_MODLIST_GPA : 0,
        .cmdline_paddr = KUMO_X86_CMDLINE_GPA,
        .rsdp_paddr = rsdp_gpa,
        .memmap_paddr = KUMO_X86_MEMMAP_GPA,
        .memmap_entries = kumo_x86_memory_map(memory, map),
    };

    for (unsigned i = 0; i < info.memmap_entries; i++)
        entries[i] = (PvhMapEntry){ map[i].gpa, map[i].size_bytes, map[i].type, 0 };
    return kumo_memory_write(memory, KUMO_X86_START_INFO_GPA, &info, sizeof(info)) &&
           kumo_memory_write(memory, KUMO_X86_MODLIST_GPA, &module, sizeof(module)) &&
           kumo_memory_write(memory, KUMO_X86_MEMMAP_GPA, entries,
                             info.memmap_entries * sizeof(entries[0]));
}

/*
 * 32-bit protected mode, paging off, flat segments. Linux wants its code segment at selector 0x10
 * and data at 0x18; a PVH payload may not assume selectors and gets code, data, TSS from 0x8 on.
 */
static bool fill_entry(KumoMemory *memory, const KumoX86Payload *payload, KumoArchEntry *ret)
{
    uint64_t pvh_gdt[4] = { 0, GDT_CODE, GDT_DATA, GDT_TSS };
    uint64_t linux_gdt[4] = { 0, GDT_TSS, GDT_CODE, GDT_DATA };
    uint64_t idt = 0;
    uint16_t code = payload->bzimage ? 0x10 : 0x08;
    uint16_t data = payload->bzimage ? 0x18 : 0x10;
    uint16_t tss = payload->bzimage ? 0x08 : 0x18;
    KumoHvSegment flat = {
        .limit = UINT32_MAX, .selector = data, .type = 0x3, .s = 1, .present = 1, .db = 1, .g = 1
    };

    *ret = (KumoArchEntry){
        .regs = { .rip = payload->entry_gpa, .rflags = 0x2 },
        .sregs = { .ds = flat,
                   .es = flat,
                   .fs = flat,
                   .gs = flat,
                   .ss = flat,
                   .cs = flat,
                   .tr = { .limit = 0x67, .selector = tss, .type = 0xb, .present = 1 },
                   .ldt = { .type = 0x2, .unusable = 1 },
                   .gdt = { .base = KUMO_X86_GDT_GPA, .limit = sizeof(pvh_gdt) - 1 },
                   .idt = { .base = KUMO_X86_IDT_GPA, .limit = sizeof(idt) - 1 },
                   .cr0 = 0x11 }, /* PE, and ET, which is always 1 */
    };
    ret->sregs.cs.selector = code;
    ret->sregs.cs.type = 0xb;
    if (payload->bzimage) {
        ret->regs.rsi = KUMO_X86_ZERO_PAGE_GPA;
        ret->regs.rsp = KUMO_X86_STACK_GPA;
    } else {
        ret->regs.rbx = KUMO_X86_START_INFO_GPA;
    }
    return kumo_memory_write(memory, KUMO_X86_GDT_GPA, payload->bzimage ? linux_gdt : pvh_gdt,
                             sizeof(pvh_gdt)) &&
           kumo_memory_write(memory, KUMO_X86_IDT_GPA, &idt, sizeof(idt));
}

bool kumo_x86_load_payload(KumoMemory *memory, const KumoPayloadConfig *config, uint64_t rsdp_gpa,
                           KumoArchEntry *ret_entry, GError **error)
{
    const char *path = config->firmware ? config->firmware : config->kernel;
    const char *initramfs = config->firmware ? NULL : config->initramfs;
    const char *cmdline = config->firmware || !config->cmdline ? "" : config->cmdline;
    KumoX86Payload payload = { 0 };
    uint64_t initramfs_gpa = 0;
    uint64_t initramfs_size = 0;

    if (!path) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "payload: neither kernel nor firmware");
        return false;
    }
    if (config->firmware && (config->initramfs || config->cmdline))
        kumo_warn("payload: cmdline and initramfs are ignored when firmware is booted");
    if (!load_image(memory, config->firmware ? "firmware" : "kernel", path, &payload, error) ||
        (initramfs &&
         !load_initramfs(memory, initramfs, &payload, &initramfs_gpa, &initramfs_size, error)))
        return false;
    if (!write_cmdline(memory, cmdline, payload.cmdline_max, error))
        return false;
    if (payload.bzimage && !kumo_x86_bzimage_write_zero_page(memory, &payload, initramfs_gpa,
                                                             initramfs_size, rsdp_gpa, error))
        return false;
    if ((!payload.bzimage && !write_start_info(memory, initramfs_gpa, initramfs_size, rsdp_gpa)) ||
        !fill_entry(memory, &payload, ret_entry)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INTERNAL, "no memory for the boot parameters");
        return false;
    }
    return true;
}
