/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

G_DEFINE_QUARK(kumo - error - quark, kumo_error)

KumoErrorCode kumo_error_from_errno(int err)
{
    switch (err) {
    case EACCES:
    case EPERM:
        return KUMO_ERROR_DENIED;
    case ENOENT:
    case ENODEV:
    case ENXIO:
        return KUMO_ERROR_NOT_FOUND;
    case EEXIST:
    case EADDRINUSE:
        return KUMO_ERROR_CONFLICT;
    case EBUSY:
        return KUMO_ERROR_BUSY;
    case EINVAL:
    case EISDIR:
    case ENOTDIR:
    case ENAMETOOLONG:
        return KUMO_ERROR_INVALID;
    case EOPNOTSUPP:
    case ENOSYS:
    case ENOTTY:
        return KUMO_ERROR_NOT_SUPPORTED;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case ENOSPC:
        return KUMO_ERROR_RESOURCE;
    default:
        return KUMO_ERROR_IO;
    }
}

void kumo_set_error_errno(GError **error, int err, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    if (!error)
        return;
    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, KUMO_ERROR, kumo_error_from_errno(err), "%s: %s", what, g_strerror(err));
}

unsigned kumo_error_http_status(const GError *error)
{
    if (error->domain != KUMO_ERROR)
        return 500;
    switch ((KumoErrorCode)error->code) {
    case KUMO_ERROR_INVALID:
    case KUMO_ERROR_NOT_SUPPORTED:
        return 400;
    case KUMO_ERROR_NOT_FOUND:
        return 404;
    case KUMO_ERROR_CONFLICT:
    case KUMO_ERROR_STATE:
        return 409;
    case KUMO_ERROR_BUSY:
        return 429;
    case KUMO_ERROR_DENIED:
    case KUMO_ERROR_IO:
    case KUMO_ERROR_RESOURCE:
    case KUMO_ERROR_HYPERVISOR:
    case KUMO_ERROR_INTERNAL:
        return 500;
    }
    return 500;
}

static const char *const code_names[] = {
    [KUMO_ERROR_INVALID] = "INVALID",     [KUMO_ERROR_NOT_SUPPORTED] = "NOT_SUPPORTED",
    [KUMO_ERROR_NOT_FOUND] = "NOT_FOUND", [KUMO_ERROR_CONFLICT] = "CONFLICT",
    [KUMO_ERROR_STATE] = "STATE",         [KUMO_ERROR_BUSY] = "BUSY",
    [KUMO_ERROR_DENIED] = "DENIED",       [KUMO_ERROR_IO] = "IO",
    [KUMO_ERROR_RESOURCE] = "RESOURCE",   [KUMO_ERROR_HYPERVISOR] = "HYPERVISOR",
    [KUMO_ERROR_INTERNAL] = "INTERNAL",
};

const char *kumo_error_code_name(KumoErrorCode code)
{
    return (size_t)code < G_N_ELEMENTS(code_names) ? code_names[code] : NULL;
}

bool kumo_error_code_from_name(const char *name, KumoErrorCode *ret_code)
{
    for (size_t i = 0; i < G_N_ELEMENTS(code_names); i++) {
        if (strcmp(code_names[i], name) == 0) {
            *ret_code = (KumoErrorCode)i;
            return true;
        }
    }
    return false;
}
