/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Linux tap and macvtap interfaces, one descriptor per queue pair, each frame behind a 12-byte
 * virtio-net header. */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/config/config.h"

enum {
    KUMO_TAP_HEADER_BYTES = 12, /* struct virtio_net_hdr_v1 */
    KUMO_TAP_MAX_QUEUES = 256,  /* what the kernel allows per interface */
};

typedef struct {
    char name[16]; /* the interface's */
    bool created;  /* by us: gone when the descriptors are closed */
    bool multi_queue;
    int control_fd; /* asks about the interface, where its own descriptors have no word for it */
    unsigned n_fds;
    int fds[]; /* non-blocking */
} KumoTap;

/**
 * kumo_tap_open:
 * @n_queues: queue pairs
 *
 * Opens config->fds (duplicated: the configuration keeps its own), the interface config->tap, or
 * makes a new one
 * ("vmtapN"). Only an interface that did not exist before is given the addresses, host_mac and mtu
 * of @config and is brought up; an existing one belongs to who made it.
 *
 * Returns: (transfer full): or NULL with @error naming the interface.
 */
KumoTap *kumo_tap_open(const KumoNetConfig *config, unsigned n_queues, GError **error);
void kumo_tap_close(KumoTap *tap);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoTap, kumo_tap_close)

/**
 * kumo_tap_set_offload:
 * @guest_features: VIRTIO_NET_F_GUEST_* bits: what may be handed to the guest
 *
 * Returns: TRUE, or FALSE with @error if the interface cannot do it.
 */
bool kumo_tap_set_offload(KumoTap *tap, uint64_t guest_features, GError **error);

/* Can the interface hand on partial checksums? */
bool kumo_tap_can_offload(KumoTap *tap);

/* Lets the kernel send frames to queue @index or not. Only for multi-queue interfaces. */
bool kumo_tap_enable_queue(KumoTap *tap, unsigned index, bool enable, GError **error);

/* Returns: the interface's MTU, 0 if it cannot be found out. */
uint32_t kumo_tap_mtu(const KumoTap *tap);

/* Parses "xx:xx:xx:xx:xx:xx", hexadecimal, all of @text. */
bool kumo_mac_parse(const char *text, uint8_t ret_mac[6]);
