/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

#define BALLOON_MAX_BYTES ((uint64_t)UINT32_MAX << 12) /* what the device counts in 4 KiB pages */

enum { STATS_PERIOD_MAX_S = 24 * 3600 };

static const KumoField balloon_fields[] = {
    { .type = KUMO_FIELD_INCLUDE,
      .offset = offsetof(KumoBalloonConfig, pci),
      .section = &kumo_pci_common_section },
    { .cli = "size",
      .json = "size",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoBalloonConfig, size_bytes),
      .max = BALLOON_MAX_BYTES },
    { .cli = "deflate_on_oom",
      .json = "deflate_on_oom",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoBalloonConfig, deflate_on_oom) },
    { .cli = "free_page_reporting",
      .json = "free_page_reporting",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoBalloonConfig, free_page_reporting) },
    /* More than Cloud Hypervisor has. Whether there are statistics is for the machine that the
     * guest runs in to say, not for the one that it comes to: see same_guest.c. */
    { .cli = "statistics",
      .json = "statistics",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoBalloonConfig, statistics) },
    { .cli = "stats_period",
      .json = "stats_period",
      .host = true,
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoBalloonConfig, stats_period_s),
      .max = STATS_PERIOD_MAX_S },
};

const KumoSection kumo_balloon_section = {
    .option = "balloon",
    .fields = balloon_fields,
    .n_fields = G_N_ELEMENTS(balloon_fields),
    .size = sizeof(KumoBalloonConfig),
};

bool kumo_balloon_check(const KumoVmConfig *config, GError **error)
{
    uint64_t ram = kumo_memory_config_wanted(&config->memory);

    if (!config->has_balloon || config->balloon.size_bytes < ram)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "balloon.size: %" G_GUINT64_FORMAT
                " is not allowed, must be less than the guest's memory, %" G_GUINT64_FORMAT,
                config->balloon.size_bytes, ram);
    return false;
}

bool kumo_vm_config_check_memory(const KumoVmConfig *config, GError **error)
{
    return kumo_section_check(&kumo_memory_section, &config->memory, "memory", error) &&
           kumo_balloon_check(config, error);
}
