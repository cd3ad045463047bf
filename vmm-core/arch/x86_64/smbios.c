/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* DMTF DSP0134, System Management BIOS 3.2. */
#include "vmm-core/arch/x86_64/smbios.h"

#include <string.h>

#include "vmm-core/acpi/tables.h"
#include "vmm-core/arch/x86_64/layout.h"
#include "vmm-core/base/error.h"

enum {
    ENTRY_BYTES = 24,
    AREA_BYTES = 0x10000,
    MAX_STRINGS = 255,

    TYPE_BIOS = 0,
    TYPE_SYSTEM = 1,
    TYPE_CHASSIS = 3,
    TYPE_OEM_STRINGS = 11,
    TYPE_END = 127,

    BIOS_PCI_SUPPORTED = 1 << 7,
    BIOS_EXT2_VIRTUAL_MACHINE = 1 << 4,
    WAKE_UP_POWER_SWITCH = 6,
    CHASSIS_OTHER = 1,
    CHASSIS_STATE_UNKNOWN = 2,
};

/* One structure under construction: the formatted part goes to the table, its strings are kept for
 * the end. */
typedef struct {
    GByteArray *table;
    unsigned start;
    uint16_t next_handle;
    GByteArray *strings;
    unsigned n_strings;
} Writer;

static void put(Writer *w, uint64_t value, unsigned n_bytes)
{
    kumo_acpi_put(w->table, value, n_bytes);
}

static void begin(Writer *w, uint8_t type)
{
    w->start = w->table->len;
    w->n_strings = 0;
    g_byte_array_set_size(w->strings, 0);
    put(w, type, 1);
    put(w, 0, 1); /* length */
    put(w, w->next_handle++, 2);
}

/* Takes a string into the set. Returns: its number, 0 for none. */
static unsigned add_string(Writer *w, const char *text)
{
    if (!text || !*text || w->n_strings == MAX_STRINGS)
        return 0;
    g_byte_array_append(w->strings, (const guint8 *)text, (guint)strlen(text) + 1);
    return ++w->n_strings;
}

static void put_string(Writer *w, const char *text)
{
    put(w, add_string(w, text), 1);
}

static void end(Writer *w)
{
    w->table->data[w->start + 1] = (uint8_t)(w->table->len - w->start);
    g_byte_array_append(w->table, w->strings->data, w->strings->len);
    put(w, 0, w->n_strings ? 1 : 2);
}

static void put_bios(Writer *w)
{
    begin(w, TYPE_BIOS);
    put_string(w, "cloud-hypervisor"); /* what guests know this platform by */
    put_string(w, "0");
    put(w, 0, 2); /* segment */
    put(w, 0, 1); /* release date */
    put(w, 0, 1); /* ROM size */
    put(w, BIOS_PCI_SUPPORTED, 8);
    put(w, 0, 1);
    put(w, BIOS_EXT2_VIRTUAL_MACHINE, 1);
    put(w, 0, 2);      /* release */
    put(w, 0xffff, 2); /* no embedded controller */
    put(w, 0, 2);      /* extended ROM size */
    end(w);
}

/* Since SMBIOS 2.6 the first three groups of a UUID are little-endian. */
static bool parse_uuid(const char *text, uint8_t ret[16])
{
    static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
    unsigned n = 0;

    memset(ret, 0, 16);
    if (!text)
        return true;
    if (!g_uuid_string_is_valid(text))
        return false;
    for (; *text; text++)
        if (*text != '-') {
            uint8_t *byte = &ret[order[n++ / 2]];

            *byte = (uint8_t)(*byte << 4 | g_ascii_xdigit_value(*text));
        }
    return true;
}

static void put_system(Writer *w, const KumoPlatformConfig *platform, const uint8_t uuid[16])
{
    const char *manufacturer = platform->system_manufacturer;
    const char *product = platform->system_product_name;

    begin(w, TYPE_SYSTEM);
    put_string(w, manufacturer ? manufacturer : "Cloud Hypervisor");
    put_string(w, product ? product : "cloud-hypervisor");
    put_string(w, platform->system_version);
    put_string(w, platform->system_serial_number);
    g_byte_array_append(w->table, uuid, 16);
    put(w, WAKE_UP_POWER_SWITCH, 1);
    put_string(w, platform->system_sku_number);
    put_string(w, platform->system_family);
    end(w);
}

static void put_chassis(Writer *w, const KumoPlatformConfig *platform)
{
    const char *manufacturer = platform->system_manufacturer;

    begin(w, TYPE_CHASSIS);
    put_string(w, manufacturer ? manufacturer : "Cloud Hypervisor");
    put(w, CHASSIS_OTHER, 1);
    put(w, 0, 1); /* version */
    put(w, 0, 1); /* serial number */
    put_string(w, platform->chassis_asset_tag);
    for (unsigned i = 0; i < 4; i++) /* boot-up, power supply, thermal, security */
        put(w, CHASSIS_STATE_UNKNOWN, 1);
    put(w, 0, 4); /* OEM defined */
    put(w, 0, 1); /* height */
    put(w, 0, 1); /* power cords */
    put(w, 0, 2); /* contained elements */
    put(w, 0, 1); /* SKU number */
    end(w);
}

static void put_oem_strings(Writer *w, const GPtrArray *strings)
{
    unsigned count_at;

    if (strings->len == 0)
        return;
    begin(w, TYPE_OEM_STRINGS);
    count_at = w->table->len;
    put(w, 0, 1);
    for (guint i = 0; i < strings->len; i++)
        add_string(w, g_ptr_array_index(strings, i));
    w->table->data[count_at] = (uint8_t)w->n_strings;
    end(w);
}

static void fill_entry(uint8_t *entry, uint32_t table_bytes)
{
    uint32_t max_size = GUINT32_TO_LE(table_bytes);
    uint64_t gpa = GUINT64_TO_LE(KUMO_X86_SMBIOS_GPA + KUMO_X86_SMBIOS_TABLE_OFFSET);

    memcpy(entry, "_SM3_", 5);
    entry[6] = ENTRY_BYTES;
    entry[7] = 3;
    entry[8] = 2;
    entry[10] = 1; /* entry point revision */
    memcpy(entry + 12, &max_size, sizeof(max_size));
    memcpy(entry + 16, &gpa, sizeof(gpa));
    entry[5] = kumo_acpi_checksum(entry, ENTRY_BYTES);
}

GByteArray *kumo_x86_smbios_new(const KumoPlatformConfig *platform, GError **error)
{
    g_autoptr(GByteArray) table = g_byte_array_new();
    g_autoptr(GByteArray) strings = g_byte_array_new();
    Writer w = { .table = table, .strings = strings };
    uint8_t uuid[16];

    if (!parse_uuid(platform->system_uuid, uuid)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "platform: system_uuid '%s' is no UUID",
                    platform->system_uuid);
        return NULL;
    }
    if (platform->oem_strings->len > MAX_STRINGS) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "platform: %u oem_strings, at most %u are possible", platform->oem_strings->len,
                    MAX_STRINGS);
        return NULL;
    }
    g_byte_array_set_size(table, KUMO_X86_SMBIOS_TABLE_OFFSET);
    memset(table->data, 0, table->len);
    put_bios(&w);
    put_system(&w, platform, uuid);
    put_chassis(&w, platform);
    put_oem_strings(&w, platform->oem_strings);
    begin(&w, TYPE_END);
    end(&w);
    if (table->len > AREA_BYTES) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "platform: the SMBIOS strings need %u bytes, there are %u", table->len,
                    AREA_BYTES);
        return NULL;
    }
    fill_entry(table->data, table->len - KUMO_X86_SMBIOS_TABLE_OFFSET);
    return g_steal_pointer(&table);
}

bool kumo_x86_smbios_write(KumoMemory *memory, const KumoPlatformConfig *platform,
                           uint64_t *ret_end_gpa, GError **error)
{
    g_autoptr(GByteArray) table = kumo_x86_smbios_new(platform, error);

    if (!table)
        return false;
    if (!kumo_memory_write(memory, KUMO_X86_SMBIOS_GPA, table->data, table->len)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INTERNAL, "no memory for the SMBIOS tables");
        return false;
    }
    *ret_end_gpa = KUMO_X86_SMBIOS_GPA + table->len;
    return true;
}
