/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/conf/kumo_error.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static virErrorNumber kumoErrorNumber(const GError *error)
{
    if (error->domain != KUMO_ERROR)
        return VIR_ERR_INTERNAL_ERROR;

    switch ((KumoErrorCode)error->code) {
    case KUMO_ERROR_INVALID:
    case KUMO_ERROR_NOT_SUPPORTED:
        return VIR_ERR_CONFIG_UNSUPPORTED;
    case KUMO_ERROR_NOT_FOUND:
    case KUMO_ERROR_DENIED:
    case KUMO_ERROR_IO:
    case KUMO_ERROR_RESOURCE:
    case KUMO_ERROR_HYPERVISOR:
        return VIR_ERR_OPERATION_FAILED;
    case KUMO_ERROR_CONFLICT:
    case KUMO_ERROR_STATE:
        return VIR_ERR_OPERATION_INVALID;
    case KUMO_ERROR_BUSY:
        return VIR_ERR_RESOURCE_BUSY;
    case KUMO_ERROR_INTERNAL:
        break;
    }
    return VIR_ERR_INTERNAL_ERROR;
}

void kumoReportGError(const GError *error, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    virReportError(kumoErrorNumber(error), "%s: %s", what, error->message);
}
