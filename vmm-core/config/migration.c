/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What vm.send-migration and vm.receive-migration take. */
#include <limits.h>
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"
#include "vmm-core/config/option.h"
#include "vmm-core/config/option_string.h"

enum {
    MAX_URL = PATH_MAX + 8,
    MAX_CONNECTIONS = 128,
    MAX_NAME = 253,    /* of a host, RFC 1035 */
    MAX_THROTTLE = 99, /* percent */
    MAX_LEVEL = 20,
    DOWNTIME_MS = 300,
    PEER_TIMEOUT_S = 120,
    MAX_PEER_TIMEOUT_S = 86400,
};

static const KumoEnumName strategy_names[] = {
    { .cli = "cancel", .json = "Cancel", .value = KUMO_MIGRATION_CANCEL },
    { .cli = "ignore", .json = "Ignore", .value = KUMO_MIGRATION_IGNORE },
    { 0 },
};

static const KumoEnumName compression_names[] = {
    { .cli = "none", .json = "None", .value = KUMO_COMPRESSION_NONE },
    { .cli = "zstd", .json = "Zstd", .value = KUMO_COMPRESSION_ZSTD },
    { 0 },
};

static const KumoEnumName memory_mode_names[] = {
    { .cli = "precopy", .json = "Precopy", .value = KUMO_MEMORY_PRECOPY },
    { .cli = "postcopy", .json = "Postcopy", .value = KUMO_MEMORY_POSTCOPY },
    { .cli = "hybrid", .json = "Hybrid", .value = KUMO_MEMORY_HYBRID },
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
      .def = DOWNTIME_MS,
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
    { .cli = "peer_timeout_s",
      .json = "peer_timeout_s",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoSendMigrationConfig, peer_timeout_s),
      .def = PEER_TIMEOUT_S,
      .max = MAX_PEER_TIMEOUT_S },
    { .cli = "max_bandwidth",
      .json = "max_bandwidth",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoSendMigrationConfig, max_bandwidth) },
    { .cli = "max_postcopy_bandwidth",
      .json = "max_postcopy_bandwidth",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoSendMigrationConfig, max_postcopy_bandwidth) },
    { .cli = "connections",
      .json = "connections",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoSendMigrationConfig, connections),
      .def = 1,
      .min = 1,
      .max = MAX_CONNECTIONS },
    { .cli = "compression",
      .json = "compression",
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoSendMigrationConfig, compression),
      .names = compression_names },
    { .cli = "compression_level",
      .json = "compression_level",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoSendMigrationConfig, compression_level),
      .max = MAX_LEVEL },
    { .cli = "memory_mode",
      .json = "memory_mode",
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoSendMigrationConfig, memory_mode),
      .names = memory_mode_names },
    { .cli = "auto_converge",
      .json = "auto_converge",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoSendMigrationConfig, auto_converge) },
    { .cli = "auto_converge_initial",
      .json = "auto_converge_initial",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoSendMigrationConfig, auto_converge_initial),
      .def = 20,
      .min = 1,
      .max = MAX_THROTTLE },
    { .cli = "auto_converge_increment",
      .json = "auto_converge_increment",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoSendMigrationConfig, auto_converge_increment),
      .def = 10,
      .min = 1,
      .max = MAX_THROTTLE },
    { .cli = "checksum",
      .json = "checksum",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoSendMigrationConfig, checksum),
      .def = true },
    { .cli = "keep_process",
      .json = "keep_process",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoSendMigrationConfig, keep_process) },
    { .cli = "one_way",
      .json = "one_way",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoSendMigrationConfig, one_way) },
    { .type = KUMO_FIELD_FDS, .offset = offsetof(KumoSendMigrationConfig, stream_fd) },
    { .cli = "tls_dir",
      .json = "tls_dir",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoSendMigrationConfig, tls_dir),
      .max = PATH_MAX - 1 },
    { .cli = "tls_name",
      .json = "tls_name",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoSendMigrationConfig, tls_name),
      .max = MAX_NAME },
    { .cli = "recover",
      .json = "recover",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoSendMigrationConfig, recover) },
    { .cli = "preserve_source",
      .json = "preserve_source",
      .type = KUMO_FIELD_NOT_YET,
      .json_default = "false" },
};

static bool check_url(const char *name, const char *url, GError **error)
{
    if (url)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: must be given", name);
    return false;
}

/* A server's certificate is that of the host which a URL names. */
static bool check_tls(const char *tls_dir, const char *url, GError **error)
{
    if (!tls_dir || g_str_has_prefix(url, "tcp:"))
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "tls_dir: needs a URL of the kind tcp:, %.256s is none", url);
    return false;
}

static bool check_compression(const KumoSendMigrationConfig *send, GError **error)
{
    if (send->compression == KUMO_COMPRESSION_NONE && send->compression_level) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "compression_level: %u is not allowed without compression",
                    send->compression_level);
        return false;
    }
    if (send->compression != KUMO_COMPRESSION_NONE && send->local) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "compression and local exclude each other: memory is not copied");
        return false;
    }
    return true;
}

/* What follows is asked for over a connection of its own. */
static bool check_memory_mode(const KumoSendMigrationConfig *send, GError **error)
{
    if (send->memory_mode == KUMO_MEMORY_PRECOPY ||
        (!send->local && !send->one_way && strcmp(send->destination_url, "fd:") != 0))
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "memory_mode: only precopy goes with local, one_way or a descriptor");
    return false;
}

/* What was said when the migration began holds: only where it goes on, @allowed, is said again. */
static bool check_recover(const KumoSection *section, const void *object,
                          const char *const *allowed, const char *url, GError **error)
{
    void *begun = kumo_section_new(section);
    json_t *defaults = kumo_section_to_json(section, begun);
    json_t *given = kumo_section_to_json(section, object);
    const char *name, *wrong = NULL;
    json_t *value;

    json_object_foreach(given, name, value)
    {
        if (!wrong && !g_strv_contains(allowed, name) &&
            !json_equal(value, json_object_get(defaults, name)))
            wrong = name;
    }
    if (wrong)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: is not allowed with recover, what the migration was begun with holds",
                    wrong);
    else if (strcmp(url, "fd:") == 0)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "recover: needs two connections, a descriptor is only one");
    json_decref(given);
    json_decref(defaults);
    kumo_section_free(section, begun);
    return !wrong && strcmp(url, "fd:") != 0;
}

static bool check_send_recover(const KumoSendMigrationConfig *send, GError **error)
{
    static const char *const allowed[] = { "destination_url", "tls_dir", "tls_name", "recover",
                                           NULL };

    return !send->recover ||
           check_recover(&kumo_send_migration_section, send, allowed, send->destination_url, error);
}

static bool send_validate(const void *object, const char *path, GError **error)
{
    const KumoSendMigrationConfig *send = object;

    if (!check_url("destination_url", send->destination_url, error) ||
        !check_tls(send->tls_dir, send->destination_url, error))
        return false;
    if (send->local && !g_str_has_prefix(send->destination_url, "unix:")) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "local: needs a destination_url of the kind unix:, memory is handed over as "
                    "descriptors");
        return false;
    }
    if (send->local && send->one_way) {
        g_set_error(
            error, KUMO_ERROR, KUMO_ERROR_INVALID,
            "local and one_way exclude each other: memory that is handed over is gone here");
        return false;
    }
    if (send->tls_name && !send->tls_dir) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "tls_name: needs a tls_dir");
        return false;
    }
    if (send->tls_dir && send->one_way) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "tls_dir and one_way exclude each other: TLS needs answers");
        return false;
    }
    if (send->connections > 1 &&
        (send->local || send->one_way || strcmp(send->destination_url, "fd:") == 0)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "connections: %u is not allowed with local, one_way or a descriptor, must be 1",
                    send->connections);
        return false;
    }
    return check_memory_mode(send, error) && check_compression(send, error) &&
           check_send_recover(send, error);
}

const KumoSection kumo_send_migration_section = {
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
    { .cli = "paused",
      .json = "paused",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoReceiveMigrationConfig, paused) },
    { .cli = "peer_timeout_s",
      .json = "peer_timeout_s",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoReceiveMigrationConfig, peer_timeout_s),
      .def = PEER_TIMEOUT_S,
      .max = MAX_PEER_TIMEOUT_S },
    { .json = "config",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoReceiveMigrationConfig, config),
      .present_offset = offsetof(KumoReceiveMigrationConfig, has_config),
      .section = &kumo_vm_section },
    { .cli = "config",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoReceiveMigrationConfig, config_file),
      .max = PATH_MAX - 1 },
    { .type = KUMO_FIELD_FDS, .offset = offsetof(KumoReceiveMigrationConfig, stream_fd) },
    { .cli = "tls_dir",
      .json = "tls_dir",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoReceiveMigrationConfig, tls_dir),
      .max = PATH_MAX - 1 },
    { .cli = "recover",
      .json = "recover",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoReceiveMigrationConfig, recover) },
    { .cli = "vfio_fds", .json = "vfio_fds", .type = KUMO_FIELD_NOT_YET },
    { .cli = "zone_updates", .json = "zone_updates", .type = KUMO_FIELD_NOT_YET },
};

static bool receive_validate(const void *object, const char *path, GError **error)
{
    static const char *const allowed[] = { "receiver_url", "wait", "tls_dir", "recover", NULL };
    const KumoReceiveMigrationConfig *receive = object;

    if (!check_url("receiver_url", receive->receiver_url, error) ||
        !check_tls(receive->tls_dir, receive->receiver_url, error))
        return false;
    if (receive->recover)
        return check_recover(&kumo_receive_migration_section, receive, allowed,
                             receive->receiver_url, error);
    if (receive->memory_mode == KUMO_MEMORY_PRECOPY || strcmp(receive->receiver_url, "fd:") != 0)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "memory_mode: only precopy goes with a descriptor");
    return false;
}

const KumoSection kumo_receive_migration_section = {
    .option = "receive-migration",
    .fields = receive_fields,
    .n_fields = G_N_ELEMENTS(receive_fields),
    .size = sizeof(KumoReceiveMigrationConfig),
    .validate = receive_validate,
};

/* "fd:N" of a command line: the process's own descriptor. FALSE: it is not like that. */
static bool take_own_fd(char **url, GArray **ret_fd)
{
    uint64_t number = 0;
    int fd;

    if (!*url || !g_str_has_prefix(*url, "fd:"))
        return true;
    if (!kumo_option_parse_u64(*url + strlen("fd:"), &number) || number > G_MAXINT)
        return false;
    fd = (int)number;
    *ret_fd = g_array_new(FALSE, FALSE, sizeof(int));
    g_array_append_val(*ret_fd, fd);
    g_free(*url);
    *url = g_strdup("fd:");
    return true;
}

/* Exactly one of @json and @text is given. */
static void *read_section(const KumoSection *section, const json_t *json, const char *text,
                          size_t url_offset, size_t fd_offset, GError **error)
{
    char *object = kumo_section_new(section);
    char **url = (char **)(object + url_offset);
    bool ok = json ? kumo_section_from_json(section, object, json, "", error)
                   : kumo_section_from_option(section, object, section->option, text, error);

    if (ok && text && !take_own_fd(url, (GArray **)(object + fd_offset))) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "--%s: %.256s is not allowed, must be fd: and a number", section->option, *url);
        ok = false;
    }
    if (ok) {
        kumo_section_finish(section, object);
        ok = kumo_section_check(section, object, "", error);
    }
    if (ok)
        return object;
    kumo_section_free(section, object);
    return NULL;
}

static void *read_send(const json_t *json, const char *text, GError **error)
{
    return read_section(&kumo_send_migration_section, json, text,
                        offsetof(KumoSendMigrationConfig, destination_url),
                        offsetof(KumoSendMigrationConfig, stream_fd), error);
}

static void *read_receive(const json_t *json, const char *text, GError **error)
{
    return read_section(&kumo_receive_migration_section, json, text,
                        offsetof(KumoReceiveMigrationConfig, receiver_url),
                        offsetof(KumoReceiveMigrationConfig, stream_fd), error);
}

/* Takes the descriptor of "fd:" from the beginning of *@fds. */
static bool take_stream_fd(const char *name, const char *url, GArray **ret_fd, int **fds,
                           size_t *n_fds, GError **error)
{
    if (strcmp(url, "fd:") != 0)
        return true;
    if (*n_fds == 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: fd: needs a descriptor, none came with the request", name);
        return false;
    }
    *ret_fd = g_array_new(FALSE, FALSE, sizeof(int));
    g_array_append_val(*ret_fd, **fds);
    **fds = -1;
    (*fds)++;
    (*n_fds)--;
    return true;
}

bool kumo_send_migration_config_take_fds(KumoSendMigrationConfig *send, int *fds, size_t n_fds,
                                         GError **error)
{
    if (!take_stream_fd("destination_url", send->destination_url, &send->stream_fd, &fds, &n_fds,
                        error))
        return false;
    if (n_fds == 0)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "send-migration: %zu descriptors came with the request that are for nothing",
                n_fds);
    return false;
}

bool kumo_receive_migration_config_take_fds(KumoReceiveMigrationConfig *receive, int *fds,
                                            size_t n_fds, GError **error)
{
    return take_stream_fd("receiver_url", receive->receiver_url, &receive->stream_fd, &fds, &n_fds,
                          error) &&
           kumo_vm_config_take_fds(&receive->config, fds, n_fds, error);
}

KumoSendMigrationConfig *kumo_send_migration_config_from_json(const json_t *json, GError **error)
{
    return read_send(json, NULL, error);
}

KumoSendMigrationConfig *kumo_option_parse_send_migration(const char *value, GError **error)
{
    return read_send(NULL, value, error);
}

json_t *kumo_send_migration_config_to_json(const KumoSendMigrationConfig *send)
{
    return kumo_section_to_json(&kumo_send_migration_section, send);
}

void kumo_send_migration_config_free(KumoSendMigrationConfig *send)
{
    kumo_section_free(&kumo_send_migration_section, send);
}

KumoReceiveMigrationConfig *kumo_receive_migration_config_from_json(const json_t *json,
                                                                    GError **error)
{
    return read_receive(json, NULL, error);
}

KumoReceiveMigrationConfig *kumo_option_parse_receive_migration(const char *value, GError **error)
{
    return read_receive(NULL, value, error);
}

json_t *kumo_receive_migration_config_to_json(const KumoReceiveMigrationConfig *receive)
{
    return kumo_section_to_json(&kumo_receive_migration_section, receive);
}

void kumo_receive_migration_config_free(KumoReceiveMigrationConfig *receive)
{
    kumo_section_free(&kumo_receive_migration_section, receive);
}

/* --- changes of one that is under way --- */

static const KumoField update_fields[] = {
    { .cli = "downtime_ms",
      .json = "downtime_ms",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoUpdateMigrationConfig, downtime_ms),
      .def = DOWNTIME_MS,
      .min = 1 },
    { .cli = "max_bandwidth",
      .json = "max_bandwidth",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoUpdateMigrationConfig, max_bandwidth) },
    { .cli = "max_postcopy_bandwidth",
      .json = "max_postcopy_bandwidth",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoUpdateMigrationConfig, max_postcopy_bandwidth) },
    { .cli = "stop_guest",
      .json = "stop_guest",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoUpdateMigrationConfig, stop_guest) },
};

static const KumoSection update_section = {
    .option = "update-migration",
    .fields = update_fields,
    .n_fields = G_N_ELEMENTS(update_fields),
    .size = sizeof(KumoUpdateMigrationConfig),
};

bool kumo_update_migration_config_from_json(const json_t *json, KumoUpdateMigrationConfig *ret,
                                            GError **error)
{
    KumoUpdateMigrationConfig *update = kumo_section_new(&update_section);
    bool ok = kumo_section_from_json(&update_section, update, json, "", error) &&
              kumo_section_check(&update_section, update, "", error);

    if (ok) {
        update->has_downtime = json_is_integer(json_object_get(json, "downtime_ms"));
        update->has_bandwidth = json_is_integer(json_object_get(json, "max_bandwidth"));
        update->has_postcopy_bandwidth =
            json_is_integer(json_object_get(json, "max_postcopy_bandwidth"));
        *ret = *update;
    }
    kumo_section_free(&update_section, update);
    return ok;
}
