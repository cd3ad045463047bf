/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/guest/acpi.h"

#include "tests/guest/runtime.h"

uint8_t byte_sum(const void *at, size_t len)
{
    const uint8_t *bytes = at;
    uint8_t sum = 0;

    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return sum;
}

uint64_t field(const uint8_t *table, unsigned offset, unsigned n_bytes)
{
    uint64_t value = 0;

    for (unsigned i = n_bytes; i-- > 0;)
        value = value << 8 | table[offset + i];
    return value;
}

/* The XSDT or, from a firmware of ACPI 1.0, the RSDT; and the size of its entries. */
static const uint8_t *root_table(unsigned *ret_entry_bytes)
{
    const uint8_t *rsdp = (const uint8_t *)start_info->rsdp_paddr;
    bool extended = rsdp[15] >= 2;

    *ret_entry_bytes = extended ? 8 : 4;
    return (const uint8_t *)(extended ? field(rsdp, 24, 8) : field(rsdp, 16, 4));
}

unsigned acpi_count(void)
{
    unsigned entry_bytes;
    const uint8_t *root = root_table(&entry_bytes);

    return ((unsigned)field(root, 4, 4) - 36) / entry_bytes;
}

const uint8_t *acpi_table(unsigned index)
{
    unsigned entry_bytes;
    const uint8_t *root = root_table(&entry_bytes);

    return (const uint8_t *)field(root, 36 + entry_bytes * index, entry_bytes);
}

const uint8_t *acpi_find(const char *signature)
{
    for (unsigned i = 0; i < acpi_count(); i++)
        if (memcmp(acpi_table(i), signature, 4) == 0)
            return acpi_table(i);
    return NULL;
}
