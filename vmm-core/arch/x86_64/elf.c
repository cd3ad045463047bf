/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ELF payloads with a PVH entry point: Xen's public headers, arch-x86/hvm/start_info.h and
 * elfnote.h. */
#include "vmm-core/arch/x86_64/elf.h"

#include <elf.h>
#include <inttypes.h>
#include <string.h>

#include "vmm-core/arch/x86_64/layout.h"
#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

enum {
    MAX_PROGRAM_HEADERS = 256,
    MAX_NOTE_BYTES = 64 * 1024,
    NOTE_PHYS32_ENTRY = 18, /* XEN_ELFNOTE_PHYS32_ENTRY */
};

static const char note_name[4] = "Xen";

bool kumo_x86_elf_probe(const uint8_t *head, size_t len)
{
    return len >= SELFMAG && memcmp(head, ELFMAG, SELFMAG) == 0;
}

static bool bad(GError **error, const char *what, const char *path, const char *format, ...)
    G_GNUC_PRINTF(4, 5);

static bool bad(GError **error, const char *what, const char *path, const char *format, ...)
{
    g_autofree char *detail = NULL;
    va_list args;

    va_start(args, format);
    detail = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s '%s': %s", what, path, detail);
    return false;
}

static bool check_header(const Elf64_Ehdr *header, uint64_t size, const char *what,
                         const char *path, GError **error)
{
    /* EDK2's image for the PVH entry, which is 32-bit code, says that it is for the 80386. */
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
        (header->e_machine != EM_X86_64 && header->e_machine != EM_386))
        return bad(error, what, path, "is not a 64-bit ELF file for x86");
    if (header->e_type != ET_EXEC && header->e_type != ET_DYN)
        return bad(error, what, path, "is not an executable ELF file (type %u)", header->e_type);
    if (header->e_phentsize != sizeof(Elf64_Phdr) || header->e_phnum == 0 ||
        header->e_phnum > MAX_PROGRAM_HEADERS)
        return bad(error, what, path,
                   "has %u program headers of %u bytes, allowed are 1 to %u of %zu",
                   header->e_phnum, header->e_phentsize, MAX_PROGRAM_HEADERS, sizeof(Elf64_Phdr));
    if (!kumo_range_inside(header->e_phoff, header->e_phnum * sizeof(Elf64_Phdr), 0, size))
        return bad(error, what, path, "program headers at %#" PRIx64 " lie outside the file",
                   header->e_phoff);
    return true;
}

/* Does the note in @notes hold the entry point? Walks all notes of one segment. */
static bool find_entry(const uint8_t *notes, uint64_t len, uint64_t align, uint32_t *ret_entry)
{
    uint64_t at = 0;

    if (align != 8)
        align = 4;
    while (len - at >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr note;
        uint64_t name_at = at + sizeof(note);
        uint64_t desc_at;
        uint64_t next;

        /* 32-bit sizes in 64-bit sums: nothing wraps. */
        memcpy(&note, notes + at, sizeof(note));
        desc_at = kumo_align_up(name_at + note.n_namesz, align);
        next = kumo_align_up(desc_at + note.n_descsz, align);
        if (desc_at > len || note.n_descsz > len - desc_at)
            return false;
        if (note.n_type == NOTE_PHYS32_ENTRY && note.n_namesz == sizeof(note_name) &&
            memcmp(notes + name_at, note_name, sizeof(note_name)) == 0 &&
            note.n_descsz >= sizeof(uint32_t)) {
            uint32_t entry;

            memcpy(&entry, notes + desc_at, sizeof(entry));
            *ret_entry = GUINT32_FROM_LE(entry);
            return true;
        }
        if (next > len)
            return false;
        at = next;
    }
    return false;
}

static bool read_entry(int fd, uint64_t size, const Elf64_Phdr *segments, unsigned n_segments,
                       const char *what, const char *path, uint32_t *ret_entry, GError **error)
{
    g_autofree uint8_t *notes = g_malloc(MAX_NOTE_BYTES);

    for (unsigned i = 0; i < n_segments; i++) {
        const Elf64_Phdr *segment = &segments[i];
        ssize_t n;

        if (segment->p_type != PT_NOTE)
            continue;
        if (segment->p_filesz > MAX_NOTE_BYTES ||
            !kumo_range_inside(segment->p_offset, segment->p_filesz, 0, size))
            return bad(error, what, path,
                       "note segment %u (offset %#" PRIx64 ", %" PRIu64
                       " bytes) lies outside the file or is longer than %u bytes",
                       i, segment->p_offset, segment->p_filesz, MAX_NOTE_BYTES);
        n = kumo_pread_full(fd, notes, segment->p_filesz, (off_t)segment->p_offset);
        if (n != (ssize_t)segment->p_filesz)
            return bad(error, what, path, "cannot read note segment %u", i);
        if (find_entry(notes, segment->p_filesz, segment->p_align, ret_entry))
            return true;
    }
    return bad(error, what, path, "has no PVH entry point (ELF note Xen, type %u)",
               NOTE_PHYS32_ENTRY);
}

static bool check_segment(KumoMemory *memory, uint64_t size, const Elf64_Phdr *segments, unsigned i,
                          const char *what, const char *path, GError **error)
{
    const Elf64_Phdr *segment = &segments[i];

    if (segment->p_filesz > segment->p_memsz)
        return bad(error, what, path,
                   "segment %u has %" PRIu64 " bytes in the file but %" PRIu64 " in memory", i,
                   segment->p_filesz, segment->p_memsz);
    if (!kumo_range_inside(segment->p_offset, segment->p_filesz, 0, size))
        return bad(error, what, path,
                   "segment %u (offset %#" PRIx64 ", %" PRIu64
                   " bytes) lies outside the file of %" PRIu64 " bytes",
                   i, segment->p_offset, segment->p_filesz, size);
    if (!kumo_memory_at(memory, segment->p_paddr, segment->p_memsz))
        return bad(error, what, path,
                   "segment %u at %#" PRIx64 ", %" PRIu64 " bytes, does not fit into guest memory",
                   i, segment->p_paddr, segment->p_memsz);
    /* The VMM's own boot data and tables would be overwritten, or overwrite the segment. */
    if (segment->p_paddr < KUMO_X86_LOW_USED_END ||
        kumo_range_overlap(segment->p_paddr, segment->p_memsz, KUMO_X86_EBDA_GPA,
                           KUMO_X86_HIGH_RAM_GPA - KUMO_X86_EBDA_GPA))
        return bad(error, what, path,
                   "segment %u at %#" PRIx64 ", %" PRIu64
                   " bytes, lies in low memory that the VMM uses",
                   i, segment->p_paddr, segment->p_memsz);
    for (unsigned k = 0; k < i; k++)
        if (segments[k].p_type == PT_LOAD &&
            kumo_range_overlap(segment->p_paddr, segment->p_memsz, segments[k].p_paddr,
                               segments[k].p_memsz))
            return bad(error, what, path, "segments %u and %u overlap at %#" PRIx64, k, i,
                       MAX(segment->p_paddr, segments[k].p_paddr));
    return true;
}

bool kumo_x86_elf_load(KumoMemory *memory, int fd, uint64_t size, const char *what,
                       const char *path, KumoX86Payload *ret, GError **error)
{
    g_autofree Elf64_Phdr *segments = NULL;
    Elf64_Ehdr header;
    size_t table_bytes;
    bool entry_inside = false;

    if (kumo_pread_full(fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header))
        return bad(error, what, path, "is shorter than an ELF header");
    if (!check_header(&header, size, what, path, error))
        return false;
    table_bytes = header.e_phnum * sizeof(Elf64_Phdr);
    segments = g_malloc(table_bytes);
    if (kumo_pread_full(fd, segments, table_bytes, (off_t)header.e_phoff) != (ssize_t)table_bytes)
        return bad(error, what, path, "cannot read the program headers");
    if (!read_entry(fd, size, segments, header.e_phnum, what, path, &ret->entry_gpa, error))
        return false;

    ret->start_gpa = UINT64_MAX;
    for (unsigned i = 0; i < header.e_phnum; i++) {
        const Elf64_Phdr *segment = &segments[i];

        if (segment->p_type != PT_LOAD || segment->p_memsz == 0)
            continue;
        if (!check_segment(memory, size, segments, i, what, path, error))
            return false;
        ret->start_gpa = MIN(ret->start_gpa, segment->p_paddr);
        ret->end_gpa = MAX(ret->end_gpa, segment->p_paddr + segment->p_memsz);
        entry_inside |= ret->entry_gpa - segment->p_paddr < segment->p_memsz;
    }
    if (!entry_inside)
        return bad(error, what, path, "entry point %#x is in no loaded segment", ret->entry_gpa);

    /* What follows a segment's bytes in memory is zero already: the machine's memory is fresh. */
    for (unsigned i = 0; i < header.e_phnum; i++)
        if (segments[i].p_type == PT_LOAD && segments[i].p_filesz &&
            !kumo_x86_read_file_into(memory, fd, segments[i].p_offset, segments[i].p_paddr,
                                     segments[i].p_filesz, what, path, error))
            return false;
    ret->initramfs_limit = UINT64_MAX;
    ret->cmdline_max = KUMO_CMDLINE_MAX - 1;
    return true;
}
