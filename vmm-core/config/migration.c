/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What vm.send-migration and vm.receive-migration take. */
#include <limits.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"
#include "vmm-core/config/option.h"

enum { MAX_URL = PATH_MAX + 8, MAX_CONNECTIONS = 128 };

static const KumoEnumName strategy_names[] = {
    { .cli = "cancel", .json = "Cancel", .value = KUMO_MIGRATION_CANCEL },
    { .cli = "ignore", .json = "Ignore", .value = KUMO_MIGRATION_IGNORE },
    { 0 },
};

static const KumoEnumName memory_mode_names[] = {
    { .cli = "precopy", .json = "Precopy", .value = 0 },
    { .cli = "postcopy", .json = "Postcopy", .not_yet = true },
    { 0 },
};

static const KumoField send_fields[] = {
    { .cli = "destination_url",
      .json = "destination_url",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoSendMigrationConfig, destination_url),
      .max = MAX_URL },
    { .cli = "local",
      .json = "local",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoSendMigrationConfig, local) },
    { .cli = "downtime_ms",
      .json = "downtime_ms",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoSendMigrationConfig, downtime_ms),
      .def = 300,
      .min = 1 },
    { .cli = "timeout_s",
      .json = "timeout_s",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoSendMigrationConfig, timeout_s),
      .def = 3600,
      .min = 1 },
    { .cli = "timeout_strategy",
      .json = "timeout_strategy",
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoSendMigrationConfig, timeout_strategy),
      .names = strategy_names },
    { .cli = "max_bandwidth",
      .json = "max_bandwidth",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoSendMigrationConfig, max_bandwidth) },
    { .cli = "connections",
      .json = "connections",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoSendMigrationConfig, connections),
      .def = 1,
      .min = 1,
      .max = MAX_CONNECTIONS },
    { .cli = "memory_mode",
      .json = "memory_mode",
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoSendMigrationConfig, memory_mode),
      .names = memory_mode_names },
    { .cli = "tls_dir", .json = "tls_dir", .type = KUMO_FIELD_NOT_YET },
    { .cli = "preserve_source", .json = "preserve_source", .type = KUMO_FIELD_NOT_YET },
};

static bool check_url(const char *name, const char *url, GError **error)
{
    if (url)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: must be given", name);
    return false;
}

static bool send_validate(const void *object, const char *path, GError **error)
{
    const KumoSendMigrationConfig *send = object;

    if (!check_url("destination_url", send->destination_url, error))
        return false;
    if (send->local && !g_str_has_prefix(send->destination_url, "unix:")) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "local: needs a destination_url of the kind unix:, memory is handed over as "
                    "descriptors");
        return false;
    }
    if (send->connections > 1) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "connections: %u is not supported yet, must be 1", send->connections);
        return false;
    }
    return true;
}

static const KumoSection send_section = {
    .option = "send-migration",
    .fields = send_fields,
    .n_fields = G_N_ELEMENTS(send_fields),
    .size = sizeof(KumoSendMigrationConfig),
    .validate = send_validate,
};

static const KumoField receive_fields[] = {
    { .cli = "receiver_url",
      .json = "receiver_url",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoReceiveMigrationConfig, receiver_url),
      .max = MAX_URL },
    { .cli = "wait",
      .json = "wait",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoReceiveMigrationConfig, wait),
      .def = true },
    { .cli = "memory_mode",
      .json = "memory_mode",
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoReceiveMigrationConfig, memory_mode),
      .names = memory_mode_names },
    { .cli = "tls_dir", .json = "tls_dir", .type = KUMO_FIELD_NOT_YET },
    { .cli = "vfio_fds", .json = "vfio_fds", .type = KUMO_FIELD_NOT_YET },
    { .cli = "zone_updates", .json = "zone_updates", .type = KUMO_FIELD_NOT_YET },
};

static bool receive_validate(const void *object, const char *path, GError **error)
{
    return check_url("receiver_url", ((const KumoReceiveMigrationConfig *)object)->receiver_url,
                     error);
}

static const KumoSection receive_section = {
    .option = "receive-migration",
    .fields = receive_fields,
    .n_fields = G_N_ELEMENTS(receive_fields),
    .size = sizeof(KumoReceiveMigrationConfig),
    .validate = receive_validate,
};

/* Exactly one of @json and @text is given. */
static void *read_section(const KumoSection *section, const json_t *json, const char *text,
                          GError **error)
{
    void *object = kumo_section_new(section);

    if ((json ? kumo_section_from_json(section, object, json, "", error)
              : kumo_section_from_option(section, object, section->option, text, error)) &&
        kumo_section_check(section, object, "", error))
        return object;
    kumo_section_free(section, object);
    return NULL;
}

KumoSendMigrationConfig *kumo_send_migration_config_from_json(const json_t *json, GError **error)
{
    return read_section(&send_section, json, NULL, error);
}

KumoSendMigrationConfig *kumo_option_parse_send_migration(const char *value, GError **error)
{
    return read_section(&send_section, NULL, value, error);
}

json_t *kumo_send_migration_config_to_json(const KumoSendMigrationConfig *send)
{
    return kumo_section_to_json(&send_section, send);
}

void kumo_send_migration_config_free(KumoSendMigrationConfig *send)
{
    kumo_section_free(&send_section, send);
}

KumoReceiveMigrationConfig *kumo_receive_migration_config_from_json(const json_t *json,
                                                                    GError **error)
{
    return read_section(&receive_section, json, NULL, error);
}

KumoReceiveMigrationConfig *kumo_option_parse_receive_migration(const char *value, GError **error)
{
    return read_section(&receive_section, NULL, value, error);
}

json_t *kumo_receive_migration_config_to_json(const KumoReceiveMigrationConfig *receive)
{
    return kumo_section_to_json(&receive_section, receive);
}

void kumo_receive_migration_config_free(KumoReceiveMigrationConfig *receive)
{
    kumo_section_free(&receive_section, receive);
}
