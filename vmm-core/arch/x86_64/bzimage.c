/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Linux bzImage files: the x86 boot protocol, 32-bit entry (Linux Documentation/arch/x86/boot). */
#include "vmm-core/arch/x86_64/bzimage.h"

#include <inttypes.h>
#include <string.h>

#include "vmm-core/arch/x86_64/layout.h"
#include "vmm-core/base/error.h"

/* Offsets in the file and in the zero page. */
enum {
    ZERO_PAGE_BYTES = 4096,
    ZP_ACPI_RSDP = 0x070,
    ZP_E820_ENTRIES = 0x1e8,
    ZP_E820_TABLE = 0x2d0,
    SETUP_HEADER = 0x1f1,
    SETUP_SECTS = 0x1f1,
    BOOT_FLAG = 0x1fe,
    HEADER_LENGTH = 0x201, /* the header ends at 0x202 plus this byte */
    HEADER_MAGIC = 0x202,
    HEADER_VERSION = 0x206,
    TYPE_OF_LOADER = 0x210,
    LOADFLAGS = 0x211,
    RAMDISK_IMAGE = 0x218,
    RAMDISK_SIZE = 0x21c,
    CMD_LINE_PTR = 0x228,
    INITRD_ADDR_MAX = 0x22c,
    XLOADFLAGS = 0x236,
    CMDLINE_SIZE = 0x238,
    PREF_ADDRESS = 0x258,
    INIT_SIZE = 0x260,
    HEADER_MIN_END = 0x264, /* a header of protocol 2.10 reaches to here */

    LOADED_HIGH = 1 << 0,
    XLF_CAN_BE_LOADED_ABOVE_4G = 1 << 1,
    LOADER_UNDEFINED = 0xff,
    SECTOR_BYTES = 512,
    PROTOCOL_2_10 = 0x020a,
    PROTOCOL_2_12 = 0x020c,
    PROTOCOL_2_14 = 0x020e,
};

static uint64_t get_le(const uint8_t *at, unsigned n_bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < n_bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static void set_le(uint8_t *at, uint64_t value, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

bool kumo_x86_bzimage_probe(const uint8_t *head, size_t len)
{
    return len >= HEADER_MIN_END && get_le(head + BOOT_FLAG, 2) == 0xaa55 &&
           memcmp(head + HEADER_MAGIC, "HdrS", 4) == 0;
}

static bool refuse(GError **error, const char *what, const char *path, const char *why)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s '%s': %s", what, path, why);
    return false;
}

bool kumo_x86_bzimage_load(KumoMemory *memory, int fd, uint64_t size, const char *what,
                           const char *path, KumoX86Payload *ret, GError **error)
{
    uint8_t head[KUMO_X86_PROBE_BYTES] = { 0 };
    uint64_t low_end = kumo_x86_low_ram_end(memory);
    uint64_t setup_bytes;
    uint64_t image_bytes;
    uint64_t run_gpa;
    unsigned version;
    unsigned header_len;

    if (pread(fd, head, sizeof(head), 0) < HEADER_MIN_END)
        return refuse(error, what, path, "is shorter than a bzImage header");
    version = (unsigned)get_le(head + HEADER_VERSION, 2);
    if (version < PROTOCOL_2_10 || !(head[LOADFLAGS] & LOADED_HIGH)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "%s '%s': boot protocol %u.%02u%s, needed is a bzImage of at least 2.10", what,
                    path, version >> 8, version & 0xff,
                    head[LOADFLAGS] & LOADED_HIGH ? "" : " loaded low");
        return false;
    }
    setup_bytes = ((head[SETUP_SECTS] ? head[SETUP_SECTS] : 4) + 1) * SECTOR_BYTES;
    if (setup_bytes >= size)
        return refuse(error, what, path, "ends before its protected-mode part");
    image_bytes = size - setup_bytes;

    /* The header's own length; what this kernel has beyond the room is of no use to the loader. */
    header_len = HEADER_MAGIC + head[HEADER_LENGTH] - SETUP_HEADER;
    ret->setup_header_len = MIN(header_len, (unsigned)sizeof(ret->setup_header));
    if (ret->setup_header_len < HEADER_MIN_END - SETUP_HEADER)
        return refuse(error, what, path, "has a setup header that is too short for its version");
    memcpy(ret->setup_header, head + SETUP_HEADER, ret->setup_header_len);

    /* The kernel moves itself to its preferred address and needs init_size bytes there. */
    run_gpa = MAX(get_le(head + PREF_ADDRESS, 8), KUMO_X86_HIGH_RAM_GPA);
    ret->start_gpa = KUMO_X86_HIGH_RAM_GPA;
    if (low_end <= KUMO_X86_HIGH_RAM_GPA || image_bytes > low_end - KUMO_X86_HIGH_RAM_GPA ||
        run_gpa > low_end || get_le(head + INIT_SIZE, 4) > low_end - run_gpa) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s '%s': needs %" PRIu64 " bytes at %#" PRIx64
                    " and does not fit into guest memory",
                    what, path, MAX(image_bytes, get_le(head + INIT_SIZE, 4)), run_gpa);
        return false;
    }
    ret->end_gpa = MAX(KUMO_X86_HIGH_RAM_GPA + image_bytes, run_gpa + get_le(head + INIT_SIZE, 4));
    if (!kumo_x86_read_file_into(memory, fd, setup_bytes, KUMO_X86_HIGH_RAM_GPA, image_bytes, what,
                                 path, error))
        return false;

    ret->bzimage = true;
    ret->entry_gpa = KUMO_X86_HIGH_RAM_GPA;
    if (version >= PROTOCOL_2_12 && get_le(head + XLOADFLAGS, 2) & XLF_CAN_BE_LOADED_ABOVE_4G)
        ret->initramfs_limit = UINT64_MAX;
    else
        ret->initramfs_limit = get_le(head + INITRD_ADDR_MAX, 4) + 1;
    ret->cmdline_max = MIN(get_le(head + CMDLINE_SIZE, 4), (uint64_t)KUMO_CMDLINE_MAX - 1);
    return true;
}

bool kumo_x86_bzimage_write_zero_page(KumoMemory *memory, const KumoX86Payload *payload,
                                      uint64_t initramfs_gpa, uint64_t initramfs_size,
                                      uint64_t rsdp_gpa, GError **error)
{
    uint8_t page[ZERO_PAGE_BYTES] = { 0 };
    KumoX86MapEntry map[KUMO_X86_MAP_MAX];
    unsigned n_map = kumo_x86_memory_map(memory, map);

    memcpy(page + SETUP_HEADER, payload->setup_header, payload->setup_header_len);
    page[TYPE_OF_LOADER] = LOADER_UNDEFINED;
    set_le(page + CMD_LINE_PTR, KUMO_X86_CMDLINE_GPA, 4);
    set_le(page + RAMDISK_IMAGE, initramfs_gpa, 4);
    set_le(page + RAMDISK_SIZE, initramfs_size, 4);
    if (get_le(page + HEADER_VERSION, 2) >= PROTOCOL_2_14)
        set_le(page + ZP_ACPI_RSDP, rsdp_gpa, 8);
    page[ZP_E820_ENTRIES] = (uint8_t)n_map;
    for (unsigned i = 0; i < n_map; i++) {
        uint8_t *entry = page + ZP_E820_TABLE + 20 * i;

        set_le(entry, map[i].gpa, 8);
        set_le(entry + 8, map[i].size_bytes, 8);
        set_le(entry + 16, map[i].type, 4);
    }
    if (!kumo_memory_write(memory, KUMO_X86_ZERO_PAGE_GPA, page, sizeof(page))) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INTERNAL, "no memory for the zero page");
        return false;
    }
    return true;
}
