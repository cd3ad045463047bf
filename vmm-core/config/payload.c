/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <limits.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/config/field.h"

/* Each key is an option of its own: --kernel PATH. */
static const KumoField payload_fields[] = {
    { .cli = "firmware",
      .json = "firmware",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPayloadConfig, firmware),
      .max = PATH_MAX - 1 },
    { .cli = "kernel",
      .json = "kernel",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPayloadConfig, kernel),
      .max = PATH_MAX - 1 },
    { .cli = "cmdline",
      .json = "cmdline",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPayloadConfig, cmdline),
      .max = KUMO_CMDLINE_MAX - 1 },
    { .cli = "initramfs",
      .json = "initramfs",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoPayloadConfig, initramfs),
      .max = PATH_MAX - 1 },
    { .cli = "igvm", .json = "igvm", .type = KUMO_FIELD_NOT_YET },
    { .cli = "host-data", .json = "host_data", .type = KUMO_FIELD_NOT_YET },
    { .cli = "fw-cfg-config", .json = "fw_cfg_config", .type = KUMO_FIELD_NOT_YET },
};

static bool payload_validate(const void *object, const char *path, GError **error)
{
    const KumoPayloadConfig *payload = object;

    if (!payload->kernel && !payload->firmware) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: nothing to boot, kernel (--kernel) or firmware (--firmware) is needed",
                    path);
        return false;
    }
    if (payload->kernel && payload->firmware) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: kernel and firmware exclude each other", path);
        return false;
    }
    /* Cloud Hypervisor takes them and warns, and callers count on it. */
    if (payload->firmware && (payload->cmdline || payload->initramfs))
        kumo_warn("%s: cmdline and initramfs have no effect with firmware", path);
    return true;
}

const KumoSection kumo_payload_section = {
    .fields = payload_fields,
    .n_fields = G_N_ELEMENTS(payload_fields),
    .size = sizeof(KumoPayloadConfig),
    .validate = payload_validate,
};
