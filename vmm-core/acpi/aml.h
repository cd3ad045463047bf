/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing ACPI Machine Language (ACPI 6.4, chapter 20). A KumoAml is a growing buffer of terms; a
 * term that has a package length is opened and closed: kumo_aml_open_*() returns where it began,
 * kumo_aml_close() fills in the length.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    GByteArray *bytes;
} KumoAml;

KumoAml *kumo_aml_new(void);
void kumo_aml_free(KumoAml *aml);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoAml, kumo_aml_free)

typedef unsigned KumoAmlMark;

/* Paths are ACPI name strings such as "_SB_", "\\_SB_.PC00", "^PHPR.PCEJ"; segments are padded with
 * '_' to 4. */
KumoAmlMark kumo_aml_open_scope(KumoAml *aml, const char *path);
KumoAmlMark kumo_aml_open_device(KumoAml *aml, const char *path);
KumoAmlMark kumo_aml_open_method(KumoAml *aml, const char *path, unsigned n_args, bool serialized);
KumoAmlMark kumo_aml_open_package(KumoAml *aml, unsigned n_elements);
KumoAmlMark kumo_aml_open_if(KumoAml *aml); /* the predicate follows, then the body */
KumoAmlMark kumo_aml_open_else(KumoAml *aml);
KumoAmlMark kumo_aml_open_while(KumoAml *aml);
KumoAmlMark kumo_aml_open_buffer(KumoAml *aml);
void kumo_aml_close(KumoAml *aml, KumoAmlMark mark);

void kumo_aml_name(KumoAml *aml, const char *path); /* Name(path, …): the object follows */
void kumo_aml_integer(KumoAml *aml, uint64_t value);
void kumo_aml_string(KumoAml *aml, const char *text);
void kumo_aml_eisaid(KumoAml *aml, const char *id); /* "PNP0A08" */
void kumo_aml_path(KumoAml *aml,
                   const char *path); /* a reference to an object, or a method call's name */
void kumo_aml_local(KumoAml *aml, unsigned n);
void kumo_aml_arg(KumoAml *aml, unsigned n);
void kumo_aml_raw(KumoAml *aml, const void *bytes, size_t len);
void kumo_aml_op(KumoAml *aml, unsigned op); /* one of the opcodes below */

/* Opcodes that only need their operands after them (ACPI 6.4, table 20.2); two bytes where the high
 * byte is not 0. */
enum {
    KUMO_AML_ZERO = 0x00,
    KUMO_AML_ONE = 0x01,
    KUMO_AML_ONES = 0xff,
    KUMO_AML_STORE = 0x70,
    KUMO_AML_ADD = 0x72,
    KUMO_AML_SUBTRACT = 0x74,
    KUMO_AML_INCREMENT = 0x75,
    KUMO_AML_SHIFT_LEFT = 0x79,
    KUMO_AML_SHIFT_RIGHT = 0x7a,
    KUMO_AML_AND = 0x7b,
    KUMO_AML_OR = 0x7d,
    KUMO_AML_NOTIFY = 0x86,
    KUMO_AML_DEREF = 0x83,
    KUMO_AML_INDEX = 0x88,
    KUMO_AML_CREATE_QWORD_FIELD = 0x8f,
    KUMO_AML_LAND = 0x90,
    KUMO_AML_LOR = 0x91,
    KUMO_AML_LNOT = 0x92,
    KUMO_AML_LEQUAL = 0x93,
    KUMO_AML_LGREATER = 0x94,
    KUMO_AML_LLESS = 0x95,
    KUMO_AML_RETURN = 0xa4,
    KUMO_AML_BREAK = 0xa5,
};

/* OperationRegion and Field: @space 0 memory, 1 I/O; @access 1 byte, 3 dword; fields as (name or
 * NULL, bits) pairs. */
void kumo_aml_operation_region(KumoAml *aml, const char *path, unsigned space, uint64_t base,
                               uint64_t len);

typedef struct {
    const char *name; /* NULL: reserved bits */
    unsigned bits;
} KumoAmlField;

void kumo_aml_field(KumoAml *aml, const char *region, unsigned access, bool lock, unsigned update,
                    const KumoAmlField *fields, unsigned n_fields);
void kumo_aml_mutex(KumoAml *aml, const char *path);
void kumo_aml_acquire(KumoAml *aml, const char *path, unsigned timeout_ms);
void kumo_aml_release(KumoAml *aml, const char *path);

/* A UUID in the byte order of ToUUID (ACPI 6.4, 19.6.142), as a buffer object. */
void kumo_aml_uuid(KumoAml *aml, const char *uuid);

/* Resource templates (ACPI 6.4, chapter 6.4): descriptors between open and close; close adds the
 * end tag. */
KumoAmlMark kumo_aml_open_resources(KumoAml *aml);
void kumo_aml_close_resources(KumoAml *aml, KumoAmlMark mark);
void kumo_aml_res_io(KumoAml *aml, uint16_t min, uint16_t max, uint8_t align, uint8_t len);
void kumo_aml_res_irq(KumoAml *aml, uint32_t gsi, bool level, bool active_low,
                      bool shared); /* extended */
void kumo_aml_res_memory32_fixed(KumoAml *aml, bool writable, uint32_t base, uint32_t len);
void kumo_aml_res_bus_numbers(KumoAml *aml, uint16_t min, uint16_t max);
void kumo_aml_res_word_io(KumoAml *aml, uint16_t min, uint16_t max);
void kumo_aml_res_dword_memory(KumoAml *aml, bool cacheable, uint32_t min, uint32_t max);
void kumo_aml_res_qword_memory(KumoAml *aml, bool cacheable, uint64_t min, uint64_t max);
