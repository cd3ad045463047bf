/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/**
 * kumoSecondaryURI:
 * @uri: scheme:///system or scheme:///session of a secondary driver (network, storage, ...)
 *
 * Inside a daemon libvirt looks for a secondary driver only at its own modular daemon's socket.
 * Where the distribution runs the monolithic libvirtd instead, that socket does not exist, and
 * libvirtd's has to be named.
 *
 * Returns: (transfer none): @uri, or the same with libvirtd's socket added; valid for ever.
 */
const char *kumoSecondaryURI(const char *uri);
