/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The one error domain of the VMM. A code says what the caller can do about the failure, so each
 * maps to exactly one HTTP status of the REST API and to one VIR_ERR_* code of the libvirt driver.
 * The message names the object, the field and the value. It is the whole chain of causes, outermost
 * first, joined by ": "; an error remembers where each begins.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

#define KUMO_ERROR (kumo_error_quark())

/* A message remembers this many of its causes; those further out count as one. */
enum { KUMO_ERROR_CAUSES_MAX = 8 };

typedef enum {
    KUMO_ERROR_INVALID,       /* a value or a combination of values is wrong: 400 */
    KUMO_ERROR_NOT_SUPPORTED, /* valid, but this build, host or release cannot do it: 400 */
    KUMO_ERROR_NOT_FOUND,     /* no VM, or no such device or file: 404 */
    KUMO_ERROR_CONFLICT,      /* the id, path or address is taken: 409 */
    KUMO_ERROR_STATE,         /* not possible in the VM's present state: 409 */
    KUMO_ERROR_BUSY,          /* an operation of this kind is pending; try again: 429 */
    KUMO_ERROR_DENIED,        /* the operating system refuses access: 500 */
    KUMO_ERROR_IO,            /* a file, device or peer failed: 500 */
    KUMO_ERROR_RESOURCE,      /* out of memory, descriptors, ids or addresses: 500 */
    KUMO_ERROR_HYPERVISOR,    /* the hypervisor refused or failed: 500 */
    KUMO_ERROR_INTERNAL,      /* a fault of our own: 500 */
} KumoErrorCode;

GQuark kumo_error_quark(void);

/**
 * kumo_error_from_errno:
 * @err: an errno value
 *
 * Returns: the code that fits @err best (EACCES → DENIED, ENOENT → NOT_FOUND, ...), else IO.
 */
KumoErrorCode kumo_error_from_errno(int err);

/**
 * kumo_set_error_errno:
 * @error: (out) (optional): where to put the error
 * @err: the errno value of the failed call
 * @format: what failed, without the reason; ": " and strerror(@err) are appended, for EACCES with a
 * word of Landlock if that is in force
 */
void kumo_set_error_errno(GError **error, int err, const char *format, ...) G_GNUC_PRINTF(3, 4);

/**
 * kumo_error_set_denied_hint:
 * @hint: a static string; NULL: none
 *
 * The kernel does not say who refused: from now on this follows the reason of every EACCES. Any
 * thread.
 */
void kumo_error_set_denied_hint(const char *hint);

/**
 * kumo_refuse:
 * @what: what is wrong, "migration stream"
 * @format: why
 *
 * Sets KUMO_ERROR_INVALID: "@what: why".
 *
 * Returns: FALSE, for the caller to return.
 */
bool kumo_refuse(GError **error, const char *what, const char *format, ...) G_GNUC_PRINTF(3, 4);

/**
 * kumo_prefix_error:
 * @error: (inout) (optional): the error, if it is set
 * @format: what failed because of it, without ": "
 *
 * Puts "WHAT: " before the message, and makes what it was the cause of it.
 */
void kumo_prefix_error(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/**
 * kumo_error_causes:
 * @error: an error of any domain
 *
 * Returns: (transfer full): a list of strings, the message taken apart: what failed first, then
 * why, then why that. One of a foreign domain is one string.
 */
char **kumo_error_causes(const GError *error);

/**
 * kumo_error_http_status:
 * @error: an error of any domain
 *
 * Returns: the HTTP status that the REST API answers with, 500 for a foreign domain.
 */
unsigned kumo_error_http_status(const GError *error);

/**
 * kumo_error_code_name:
 *
 * Returns: (nullable): @code as the API's answers spell it, "NOT_SUPPORTED"; NULL for a number of
 * no code.
 */
const char *kumo_error_code_name(KumoErrorCode code);

/* The reverse. Returns: FALSE, with *@ret_code as it was, for an unknown name. */
bool kumo_error_code_from_name(const char *name, KumoErrorCode *ret_code);
