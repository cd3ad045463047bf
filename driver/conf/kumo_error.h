/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "driver/compat.h"

#include "vmm-core/base/error.h"

/**
 * kumoReportGError:
 * @error: of vmm-core
 * @format: what could not be done; the error's own message follows after ": "
 *
 * Reports @error as the libvirt error whose code fits its own.
 */
void kumoReportGError(const GError *error, const char *format, ...) G_GNUC_PRINTF(2, 3);
