/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parts of kumo that link large libraries, and are loaded only when somebody asks for them. */
#pragma once

#include <glib.h>

/**
 * kumo_module_load:
 * @what: for messages: "D-Bus"
 * @symbol: what the module exports: a structure that begins with the version of kumo that it was
 * built with
 *
 * Loads the module from one of the directories that the environment's KUMO_MODULE_DIR names,
 * separated by colons, else from where it was installed. It stays loaded.
 *
 * Returns: (transfer none): the structure, or NULL with @error (NOT_SUPPORTED) set.
 */
const void *kumo_module_load(const char *what, const char *file, const char *symbol,
                             GError **error);
