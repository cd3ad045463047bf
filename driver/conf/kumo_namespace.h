/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What of the VMM libvirt's domain format has no word for: <kumo:vm> in a namespace of its own,
 * at the end of <domain>.
 */
#pragma once

#include "driver/compat.h"

#include "domain_conf.h"
#include "vmm-core/config/config.h"

#define KUMO_NAMESPACE_URI "urn:kumo:domain:1.0"

/* A disk or an interface, and the host CPUs that serve its queues. */
typedef struct {
    bool isDisk;
    char *name; /* a disk's target, or an interface's MAC address as libvirt writes it */
    virTristateSwitch sparse;
    char *lock;        /* "full", "byte-range"; NULL: not given */
    GPtrArray *queues; /* of kumoNamespaceQueue */
} kumoNamespaceDevice;

typedef struct {
    unsigned int number;
    virBitmap *cpus;
} kumoNamespaceQueue;

typedef struct {
    char *coreScheduling; /* "vm", "vcpu", "off"; NULL: not given */
    virTristateSwitch amx;
    virTristateSwitch thp;
    virTristateSwitch mergeable;
    virTristateSwitch reserve;
    GPtrArray *devices; /* of kumoNamespaceDevice */
} kumoNamespace;

extern virXMLNamespace kumoXMLNamespace;

/* kumoNamespaceValidate: 0, or -1 with the error reported: what it names is not in the domain. */
int kumoNamespaceValidate(const virDomainDef *def);
