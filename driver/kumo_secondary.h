/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The driver as a user of libvirt's secondary drivers. libvirt's helpers open such a connection
 * themselves, but inside a daemon only to a modular daemon; here libvirtd does as well.
 */
#pragma once

#include "driver/conf/kumo_conf.h"

#include "datatypes.h"
#include "domain_conf.h"

/**
 * kumoSecondaryNetwork:
 *
 * Opens the network driver and makes it the calling thread's for libvirt's helpers, until
 * kumoSecondaryNetworkDone.
 *
 * Returns: (transfer full): the connection, or NULL with the error reported.
 */
virConnectPtr kumoSecondaryNetwork(kumoDriver *driver);
void kumoSecondaryNetworkDone(virConnectPtr conn);

/**
 * kumoSecondaryNodeDevice:
 *
 * Opens the node device driver and makes it the calling thread's for libvirt's helpers, until
 * kumoSecondaryNodeDeviceDone.
 *
 * Returns: (transfer full): the connection, or NULL with the error reported.
 */
virConnectPtr kumoSecondaryNodeDevice(kumoDriver *driver);
void kumoSecondaryNodeDeviceDone(virConnectPtr conn);

/**
 * kumoSecondaryFilter:
 * @net: whose tap is there, and that names a filter
 * @maybeThere: that it is at work already is no error
 *
 * Has the network filter driver put the interface's filter to work.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoSecondaryFilter(kumoDriver *driver, const virDomainDef *def, virDomainNetDef *net,
                        bool maybeThere);

/* The filter goes; where it cannot, the daemon's log tells why. */
void kumoSecondaryFilterRemove(kumoDriver *driver, virDomainNetDef *net);

/* Makes a disk of a storage volume one of the file or device behind it. */
int kumoSecondaryTranslateVolume(kumoDriver *driver, virDomainDiskDef *disk);
