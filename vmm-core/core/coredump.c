/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A machine as an ELF core file: the file header, one program header of notes and one of each part
 * of guest memory, the notes, and from the next page on the memory itself, pages of zeros as holes.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/core/vm-internal.h"
#include "vmm-core/core/memory_file.h"

enum { PAGE = 4096 };

static void append_file_header(GByteArray *head, uint16_t machine, unsigned n_segments)
{
    const Elf64_Ehdr header = {
        .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64,
                     G_BYTE_ORDER == G_LITTLE_ENDIAN ? ELFDATA2LSB : ELFDATA2MSB, EV_CURRENT },
        .e_type = ET_CORE,
        .e_machine = machine,
        .e_version = EV_CURRENT,
        .e_phoff = sizeof(Elf64_Ehdr),
        .e_ehsize = sizeof(Elf64_Ehdr),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = (Elf64_Half)n_segments,
    };

    g_byte_array_append(head, (const guint8 *)&header, sizeof(header));
}

static void append_segment(GByteArray *head, uint32_t type, uint64_t offset, uint64_t gpa,
                           uint64_t size_bytes)
{
    const Elf64_Phdr segment = {
        .p_type = type,
        .p_flags = type == PT_LOAD ? PF_R | PF_W | PF_X : 0,
        .p_offset = offset,
        /* The guest's page tables are the reader's to walk: addresses are physical. */
        .p_vaddr = gpa,
        .p_paddr = gpa,
        .p_filesz = size_bytes,
        .p_memsz = type == PT_LOAD ? size_bytes : 0,
        .p_align = type == PT_LOAD ? PAGE : 4,
    };

    g_byte_array_append(head, (const guint8 *)&segment, sizeof(segment));
}

static bool collect_notes(KumoVm *vm, GByteArray *notes, GError **error)
{
    for (unsigned i = 0; i < kumo_vcpus_end(vm->vcpus); i++) {
        KumoHvVcpu *vcpu = kumo_vcpus_get(vm->vcpus, i);

        if (vcpu && !vm->arch->core_notes(vcpu, notes, error)) {
            kumo_prefix_error(error, "vCPU %u", i);
            return false;
        }
    }
    return true;
}

bool kumo_vm_write_coredump(KumoVm *vm, int fd, bool direct, GError **error)
{
    const KumoMemory *memory = vm->machine.memory;
    unsigned n_segments = 1 + memory->n_backings;
    uint64_t notes_offset = sizeof(Elf64_Ehdr) + n_segments * sizeof(Elf64_Phdr);
    g_autoptr(GByteArray) notes = g_byte_array_new();
    g_autoptr(GByteArray) head = g_byte_array_new();
    uint64_t memory_offset, offset;

    if (!vm->arch->core_notes) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "core dumps of %s are not supported", vm->arch->name);
        return false;
    }
    if (!collect_notes(vm, notes, error))
        return false;
    memory_offset = kumo_align_up(notes_offset + notes->len, PAGE);
    append_file_header(head, vm->arch->elf_machine, n_segments);
    append_segment(head, PT_NOTE, notes_offset, 0, notes->len);
    offset = memory_offset;
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        append_segment(head, PT_LOAD, offset, part->gpa, part->size_bytes);
        offset += part->size_bytes;
    }
    g_byte_array_append(head, notes->data, notes->len);
    if (!kumo_write_full(fd, head->data, head->len)) {
        kumo_set_error_errno(error, errno, "writing the headers");
        return false;
    }
    /* From here on whole pages go to whole pages. */
    if (direct && fcntl(fd, F_SETFL, O_DIRECT) < 0) {
        kumo_set_error_errno(error, errno, "direct: going past the page cache");
        return false;
    }
    return kumo_memory_file_write_at(fd, memory_offset, memory, error);
}

bool kumo_vm_read_memory(const KumoVm *vm, uint64_t gpa, void *buf, size_t len)
{
    return kumo_memory_read(vm->machine.memory, gpa, buf, len);
}
