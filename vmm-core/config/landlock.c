/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <limits.h>
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

static const KumoField landlock_rule_fields[] = {
    { .cli = "path",
      .json = "path",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoLandlockRuleConfig, path),
      .max = PATH_MAX - 1 },
    { .cli = "access",
      .json = "access",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoLandlockRuleConfig, access),
      .max = 2 },
};

static bool landlock_rule_validate(const void *object, const char *path, GError **error)
{
    const KumoLandlockRuleConfig *rule = object;

    if (!rule->path) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s.path: must be given", path);
        return false;
    }
    if (!rule->access || strspn(rule->access, "rw") != strlen(rule->access)) {
        g_autofree char *shown = kumo_quote_value(rule->access ? rule->access : "");

        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.access: %s is not allowed, must be \"r\", \"w\" or \"rw\"", path, shown);
        return false;
    }
    return true;
}

const KumoSection kumo_landlock_rule_section = {
    .option = "landlock-rules",
    .fields = landlock_rule_fields,
    .n_fields = G_N_ELEMENTS(landlock_rule_fields),
    .size = sizeof(KumoLandlockRuleConfig),
    .validate = landlock_rule_validate,
};
