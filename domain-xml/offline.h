/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "driver/conf/kumo_conf.h"

/**
 * kumo_offline_driver_new:
 *
 * A driver that only understands domain XML: it touches no directory, runs nothing, and depends on
 * the host no more than the parser does. Its firmware is the made-up "/usr/share/kumo/firmware".
 *
 * Returns: (transfer full): the driver, or NULL with the error reported.
 */
kumoDriver *kumo_offline_driver_new(void);
void kumo_offline_driver_free(kumoDriver *driver);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(kumoDriver, kumo_offline_driver_free)

/**
 * kumo_offline_convert:
 * @xml: a domain's definition
 *
 * What happens at the start of a domain, up to the text that the VMM gets.
 *
 * Returns: (transfer full): the JSON of vm.create, or NULL with the error reported.
 */
char *kumo_offline_convert(kumoDriver *driver, const char *xml);
