/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "driver/conf/kumo_conf.h"

/**
 * kumoReconnectAll:
 *
 * Finds the VMs again that run since before the daemon started: their objects come from the status
 * files. One that ended meanwhile becomes shut off, with the reason. Talking to the VMMs is left to
 * a thread per domain, so that one that does not answer delays nobody.
 */
void kumoReconnectAll(kumoDriver *driver);
