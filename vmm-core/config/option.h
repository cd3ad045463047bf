/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Option strings, as --disk, --net and kumo-remote take them: "key=value,key=value", with quoting
 * by double quotes (a doubled quote inside stands for one) and brackets that group lists.
 */
#pragma once

#include "vmm-core/config/config.h"

/**
 * kumo_option_apply:
 * @config: changed only on success
 * @option: the option's name without dashes: cpus, memory, kernel, firmware, cmdline, initramfs,
 * disk, net, rng, serial, console, platform, or one of the reference that is not supported yet
 * @value: the option string
 *
 * disk and net append a device; the others overwrite.
 *
 * Returns: TRUE, or FALSE with @error naming option, key, value and what is allowed.
 */
bool kumo_option_apply(KumoVmConfig *config, const char *option, const char *value, GError **error);

/* Is @option the name of an option that belongs to the VM's configuration (supported or not yet)?
 */
bool kumo_option_is_vm_config(const char *option);

/**
 * kumo_option_parse_disk, kumo_option_parse_net:
 *
 * One device from its option string, as kumo-remote's add-disk and add-net take it.
 *
 * Returns: (transfer full): the device's configuration, or NULL with @error set.
 */
KumoDiskConfig *kumo_option_parse_disk(const char *value, GError **error);
KumoNetConfig *kumo_option_parse_net(const char *value, GError **error);

/* What --restore takes, its descriptors among it. Returns: (transfer full): or NULL with @error
 * set. */
KumoRestoreConfig *kumo_option_parse_restore(const char *value, GError **error);

/* The same for the migrations of kumo-remote. */
KumoSendMigrationConfig *kumo_option_parse_send_migration(const char *value, GError **error);
KumoReceiveMigrationConfig *kumo_option_parse_receive_migration(const char *value, GError **error);

/* Returns: (transfer full): the keys of the string of @option, an option of the VM's configuration
 * with one or "restore", as "a, b, c". */
char *kumo_option_keys(const char *option);

/**
 * kumo_parse_size:
 * @text: digits with an optional suffix K, M or G (powers of 1024)
 *
 * Returns: TRUE and the size in *@ret_bytes, or FALSE with @error set; overflow is an error.
 */
bool kumo_parse_size(const char *text, uint64_t *ret_bytes, GError **error);
