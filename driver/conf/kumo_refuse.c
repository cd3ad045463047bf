/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/conf/kumo_refuse.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoRefuse(const char *where, const kumoRefusal *items, size_t nitems)
{
    for (size_t i = 0; i < nitems; i++) {
        if (!items[i].present)
            continue;
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, _("%s%s is not supported by kumo"), where,
                       items[i].path);
        return -1;
    }
    return 0;
}

int kumoRefuseChanges(const char *alias, const kumoDifference *items, size_t nitems)
{
    for (size_t i = 0; i < nitems; i++) {
        if (!items[i].differs)
            continue;
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED,
                       _("cannot modify %s of device '%s' while the domain runs"), items[i].what,
                       alias);
        return -1;
    }
    return 0;
}
