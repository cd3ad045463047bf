/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Field tables. A section of the configuration (cpus, one disk, ...) is a structure whose members
 * are described once, by a static table of KumoField. Defaults, the option parser, the JSON reader
 * and writer, copying, freeing and the range checks all work from that table, so they cannot
 * disagree. A key of Cloud Hypervisor that kumo does not have yet stands in the table as well, to
 * be refused by name.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm-core/config/config.h"

typedef struct KumoField KumoField;
typedef struct KumoSection KumoSection;

typedef enum {
    KUMO_FIELD_BOOL,    /* bool */
    KUMO_FIELD_U32,     /* uint32_t */
    KUMO_FIELD_SIZE,    /* uint64_t, bytes */
    KUMO_FIELD_S32,     /* int32_t: from -max to max */
    KUMO_FIELD_SLOT,    /* int, -1: not given */
    KUMO_FIELD_TOGGLE,  /* int, -1: not given, else off or on */
    KUMO_FIELD_STRING,  /* char *, owned; an empty one is the same as none */
    KUMO_FIELD_STRINGS, /* GPtrArray * of char *, never NULL */
    KUMO_FIELD_NUMBERS, /* GArray * of uint32_t, never NULL; "[0-3,7]" on the command line */
    KUMO_FIELD_FDS,     /* GArray * of int, owned descriptors; NULL: none */
    KUMO_FIELD_ENUM,    /* an enumeration of int's size */
    KUMO_FIELD_SECTION, /* a structure inside this one; on the command line a tuple "a:b:c", or
                           a list of the names of its BOOL rows if it is marked flags */
    KUMO_FIELD_INCLUDE, /* a structure inside this one whose keys are this one's keys */
    KUMO_FIELD_LIST,    /* GPtrArray * of a section's structures, never NULL; inside another
                           section on the command line "[a@b,c@[d,e]]": a section's two rows */
    KUMO_FIELD_NOT_YET, /* known by name; its default is taken, any other value refused */
} KumoFieldType;

typedef struct {
    const char *cli;
    const char *json;
    int value;
    bool not_yet;
} KumoEnumName;

struct KumoField {
    const char *cli;  /* key in an option string; NULL: only in JSON */
    const char *json; /* key in JSON; NULL: only in an option string */
    KumoFieldType type;
    size_t offset;
    uint64_t def; /* BOOL, U32, SIZE, ENUM */
    uint64_t min; /* U32, SIZE, SLOT, NUMBERS: the value; STRING: unused */
    uint64_t max; /* the same, 0: what the type holds; STRING, STRINGS: bytes of one string */
    bool pow2;
    bool hex;      /* U32: an option string may have "0x" and hexadecimal digits */
    bool plain;    /* SIZE: a large number of something else than bytes */
    bool optional; /* U32, SIZE: 0 is "not given", JSON null; SECTION: JSON null leaves the defaults
                    */
    bool flags;    /* SECTION: see there */
    bool alias;    /* another key of a member that another row has: read, never written */
    bool bare; /* ENUM: the names are themselves keys of the option string, as in "--serial tty" */
    bool implies; /* STRING: giving it sets the ENUM row marked bare to @implied */
    int implied;
    bool host; /* the host's affair: two configurations that differ in it look alike to a guest */
    bool presence; /* ENUM of the host's: but a guest sees whether it is the first, "off" */
    bool chosen;   /* what is not given is chosen as a machine is built */
    const KumoEnumName *names; /* ENUM: ends with a row without names */
    const KumoSection
        *section;          /* SECTION, INCLUDE, LIST; NOT_YET: an object of keys that are not yet */
    size_t present_offset; /* SECTION: bool that says whether it was given; 0: always there */
    const char *json_default; /* NOT_YET: default as JSON text; NULL: null, false or an empty list,
                                 in an option string an empty value or "[]" */
};

struct KumoSection {
    const char *option; /* without dashes; NULL if none of its own */
    const KumoField *fields;
    size_t n_fields;
    size_t size;                  /* of the structure */
    void (*finish)(void *object); /* sets defaults that depend on other members; may be NULL */
    /* Checks combinations; ranges have been checked. @path is the JSON path, "disks[0]". */
    bool (*validate)(const void *object, const char *path, GError **error);
};

extern const KumoSection kumo_vm_section;
extern const KumoSection kumo_cpus_section;
extern const KumoSection kumo_memory_section;
extern const KumoSection kumo_memory_zone_section;
extern const KumoSection kumo_numa_section;
extern const KumoSection kumo_payload_section;
extern const KumoSection kumo_pci_common_section;
extern const KumoSection kumo_pci_segment_section;
extern const KumoSection kumo_rate_limit_section;
extern const KumoSection kumo_directed_rate_limit_section;
extern const KumoSection kumo_rate_limit_group_section;
extern const KumoSection kumo_disk_section;
extern const KumoSection kumo_net_section;
extern const KumoSection kumo_queue_affinity_section;
extern const KumoSection kumo_restore_section;
extern const KumoSection kumo_send_migration_section;
extern const KumoSection kumo_receive_migration_section;
extern const KumoSection kumo_rng_section;
extern const KumoSection kumo_balloon_section;
extern const KumoSection kumo_serial_section;
extern const KumoSection kumo_console_section;
extern const KumoSection kumo_debug_console_section;
extern const KumoSection kumo_platform_section;
extern const KumoSection kumo_landlock_rule_section;

/* What kumo_vm_config_validate() asks of the NUMA nodes. */
bool kumo_numa_check(const KumoVmConfig *config, GError **error);

/* And of the balloon. */
bool kumo_balloon_check(const KumoVmConfig *config, GError **error);

/* Returns: (transfer full): a structure with its defaults; free with kumo_section_free(). */
void *kumo_section_new(const KumoSection *section);
void kumo_section_free(const KumoSection *section, void *object);

/* Fills uninitialised memory with the defaults. */
void kumo_section_init(const KumoSection *section, void *object);

/* Sets the defaults that depend on what was given; the last step after reading. */
void kumo_section_finish(const KumoSection *section, void *object);

/* Frees what the members own. */
void kumo_section_clear(const KumoSection *section, void *object);

/* Fills uninitialised @dest with a deep copy; descriptors are duplicated. */
void kumo_section_copy(const KumoSection *section, void *dest, const void *source);

/**
 * kumo_section_find:
 * @cli: whether @key is one of an option string or one of JSON
 * @ret_offset: (out): offset of the member in the section's structure
 *
 * Returns: (nullable): the row, those of included sections among them.
 */
const KumoField *kumo_section_find(const KumoSection *section, const char *key, bool cli,
                                   size_t *ret_offset);

/* Returns: (transfer full): the keys as "a, b, c", without those that are not there yet. */
char *kumo_section_keys(const KumoSection *section, bool cli);

/**
 * kumo_section_check:
 * @path: JSON path of @object, "" at the top
 *
 * Checks every member against its row, then the combinations.
 */
bool kumo_section_check(const KumoSection *section, const void *object, const char *path,
                        GError **error);

/* Checks one number or string against its row. @name is the full name for the message. */
bool kumo_field_check_number(const KumoField *field, const char *name, uint64_t value,
                             GError **error);
bool kumo_field_check_signed(const KumoField *field, const char *name, int64_t value,
                             GError **error);
bool kumo_field_check_string(const KumoField *field, const char *name, const char *value,
                             GError **error);

/* Returns: (transfer full): what @field takes, for a message: "a number from 1 to 254". */
char *kumo_field_allowed(const KumoField *field, bool cli);

/* Returns: (transfer full): @path.@key, or @key if @path is empty. */
char *kumo_field_name(const char *path, const char *key);

/* Returns: (transfer full): @value cut to a size for messages, in quotes, without control
 * characters. */
char *kumo_quote_value(const char *value);

/*
 * Reads @json into @object, which holds the defaults; kumo_section_finish() is left to the caller.
 * On failure @object is still consistent.
 */
bool kumo_section_from_json(const KumoSection *section, void *object, const json_t *json,
                            const char *path, GError **error);

/* Returns: (transfer full): the member of @object that is not an INCLUDE, or NULL for what is never
 * written. */
json_t *kumo_field_to_json(const KumoField *field, const void *object);

/* Returns: (transfer full): the object. */
json_t *kumo_section_to_json(const KumoSection *section, const void *object);

/* Reads option string @text into @object, which holds the defaults. @option is for messages. */
bool kumo_section_from_option(const KumoSection *section, void *object, const char *option,
                              const char *text, GError **error);

/* Are all of @entries, KumoQueueAffinity, of different queues below @n_queues, which messages call
 * @limit? */
bool kumo_queue_affinity_check(const GPtrArray *entries, uint32_t n_queues, const char *limit,
                               const char *path, GError **error);
