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

static const uint8_t *xsdt(void)
{
    return (const uint8_t *)field((const uint8_t *)start_info->rsdp_paddr, 24, 8);
}

unsigned acpi_count(void)
{
    return (unsigned)(field(xsdt(), 4, 4) - 36) / 8;
}

const uint8_t *acpi_table(unsigned index)
{
    return (const uint8_t *)field(xsdt(), 36 + 8 * index, 8);
}

const uint8_t *acpi_find(const char *signature)
{
    for (unsigned i = 0; i < acpi_count(); i++)
        if (memcmp(acpi_table(i), signature, 4) == 0)
            return acpi_table(i);
    return NULL;
}
