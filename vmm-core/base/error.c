/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

static const char separator[] = ": ";

static const char *_Atomic denied_hint;

/* Counted from the message's end, for what is put before it leaves that where it is. */
typedef struct {
    unsigned n_causes;
    size_t cause_len[KUMO_ERROR_CAUSES_MAX]; /* from each cause's first byte, innermost first */
} KumoErrorPrivate;

/* Where GLib has it for a domain that was registered with data of its own. */
static KumoErrorPrivate *get_private(const GError *error)
{
    const size_t alignment = 2 * sizeof(gsize);
    size_t size = (sizeof(KumoErrorPrivate) + alignment - 1) & ~(alignment - 1);

    return (KumoErrorPrivate *)((char *)error - size);
}

static void private_init(GError *error)
{
    get_private(error)->n_causes = 0;
}

static void private_copy(const GError *from, GError *to)
{
    *get_private(to) = *get_private(from);
}

static void private_clear(GError *error)
{
}

/* A program and a module that it loads may have a copy of this each: whoever comes first registers
 * the domain for both. */
GQuark kumo_error_quark(void)
{
    static const char name[] = "kumo-error-quark";
    static gsize domain;

    if (g_once_init_enter(&domain)) {
        GQuark quark = g_quark_try_string(name);

        if (!quark)
            quark = g_error_domain_register_static(name, sizeof(KumoErrorPrivate), private_init,
                                                   private_copy, private_clear);
        g_once_init_leave(&domain, quark);
    }
    return (GQuark)domain;
}

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
    case EFBIG:
    case EADDRNOTAVAIL:
    case EAFNOSUPPORT:
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

void kumo_error_set_denied_hint(const char *hint)
{
    atomic_store(&denied_hint, hint);
}

void kumo_set_error_errno(GError **error, int err, const char *format, ...)
{
    const char *hint;
    g_autofree char *what = NULL;
    va_list args;

    if (!error)
        return;
    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    hint = err == EACCES ? atomic_load(&denied_hint) : NULL;
    g_set_error(error, KUMO_ERROR, kumo_error_from_errno(err), "%s%s", g_strerror(err),
                hint ? hint : "");
    kumo_prefix_error(error, "%s", what);
}

bool kumo_refuse(GError **error, const char *what, const char *format, ...)
{
    g_autofree char *why = NULL;
    va_list args;

    va_start(args, format);
    why = g_strdup_vprintf(format, args);
    va_end(args);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: %s", what, why);
    return false;
}

void kumo_prefix_error(GError **error, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    if (!error || !*error)
        return;
    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    if ((*error)->domain == KUMO_ERROR) {
        KumoErrorPrivate *priv = get_private(*error);

        if (priv->n_causes < KUMO_ERROR_CAUSES_MAX)
            priv->cause_len[priv->n_causes++] = strlen((*error)->message);
    }
    g_prefix_error(error, "%s%s", what, separator);
}

char **kumo_error_causes(const GError *error)
{
    g_autoptr(GStrvBuilder) causes = g_strv_builder_new();
    const char *rest = error->message;

    if (error->domain == KUMO_ERROR) {
        const KumoErrorPrivate *priv = get_private(error);
        const char *end = rest + strlen(rest);

        for (unsigned i = priv->n_causes; i > 0; i--) {
            const char *next = end - priv->cause_len[i - 1];
            g_autofree char *cause = g_strndup(rest, (gsize)(next - rest) - strlen(separator));

            g_strv_builder_add(causes, cause);
            rest = next;
        }
    }
    g_strv_builder_add(causes, rest);
    return g_strv_builder_end(causes);
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
