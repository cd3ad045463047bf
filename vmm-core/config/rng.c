/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <limits.h>

#include "vmm-core/config/field.h"

static const KumoField rng_fields[] = {
    { .type = KUMO_FIELD_INCLUDE,
      .offset = offsetof(KumoRngConfig, pci),
      .section = &kumo_pci_common_section },
    { .cli = "src",
      .json = "src",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoRngConfig, src),
      .max = PATH_MAX - 1 },
};

static void rng_finish(void *object)
{
    KumoRngConfig *rng = object;

    if (!rng->src)
        rng->src = g_strdup("/dev/urandom");
}

const KumoSection kumo_rng_section = {
    .option = "rng",
    .fields = rng_fields,
    .n_fields = G_N_ELEMENTS(rng_fields),
    .size = sizeof(KumoRngConfig),
    .finish = rng_finish,
};
