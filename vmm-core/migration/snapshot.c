/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/core/memory_file.h"

#define FILE_URL "file://"

static const char config_name[] = "config.json";
static const char state_name[] = "state.json";
static const char memory_name[] = "memory-ranges";
static const char sums_name[] = "memory-checksums";
static const char sums_key[] = "memory_checksums"; /* in state.json: the checksum of that file */

enum {
    JSON_MAX_BYTES = 64 << 20, /* far above what the largest VM has */
    FILE_MODE = 0600,
    SUMS_MAX_BYTES = 1 << 30, /* of 8 TiB */
};

char *kumo_snapshot_directory(const char *field, const char *url, GError **error)
{
    if (url && g_str_has_prefix(url, FILE_URL) && url[strlen(FILE_URL)])
        return g_strdup(url + strlen(FILE_URL));
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: must be like file:///directory", field);
    return NULL;
}

/* --- writing --- */

static bool failed(const char *directory, const char *name, GError **error)
{
    kumo_set_error_errno(error, errno, "snapshot %s/%s", directory, name);
    return false;
}

static int create(int dir_fd, const char *directory, const char *name, GError **error)
{
    int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, FILE_MODE);

    if (fd < 0)
        failed(directory, name, error);
    return fd;
}

static bool write_text(int fd, const char *directory, const char *name, const char *text,
                       GError **error)
{
    return kumo_write_full(fd, text, strlen(text)) || failed(directory, name, error);
}

static bool write_json(int fd, const char *directory, const char *name, const json_t *json,
                       size_t flags, GError **error)
{
    char *text = json_dumps(json, flags);
    bool ok;

    if (!text) {
        errno = ENOMEM;
        return failed(directory, name, error);
    }
    ok = write_text(fd, directory, name, text, error);
    free(text);
    return ok;
}

/* The one text of which the checksum is made, however the state is written. Free with free(). */
static char *canonical(const json_t *state)
{
    return json_dumps(state, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
}

static char *checksum(const char *text)
{
    return g_compute_checksum_for_string(G_CHECKSUM_SHA256, text ? text : "", -1);
}

/* state.json up to the state. What is there to be read fast has the canonical text behind it, and
 * `state_tail` behind that. */
static char *state_head(const char *sum, const char *sums_sum)
{
    return g_strdup_printf("{\n \"sha256\": \"%s\",\n \"%s\": \"%s\",\n \"state\": ", sum, sums_key,
                           sums_sum);
}

static const char state_tail[] = "\n}\n";

/* Returns: (transfer full): the checksum of a file of checksums. */
static char *sums_checksum(const void *data, size_t len)
{
    return g_strdup_printf("%016" G_GINT64_MODIFIER "x", kumo_memory_sums_of_bytes(data, len));
}

/* @ret_sum: (out) (transfer full): the checksum of the file. */
static bool write_sums(int fd, const char *directory, const KumoMemorySums *sums, char **ret_sum,
                       GError **error)
{
    size_t len;
    g_autofree void *data = kumo_memory_sums_write(sums, &len);

    *ret_sum = sums_checksum(data, len);
    return kumo_write_full(fd, data, len) || failed(directory, sums_name, error);
}

static bool write_state(int fd, const char *directory, const json_t *state, const char *sums_sum,
                        GError **error)
{
    char *text = canonical(state);
    g_autofree char *sum = checksum(text);
    g_autofree char *head = state_head(sum, sums_sum);
    bool ok;

    if (!text) {
        errno = ENOMEM;
        return failed(directory, state_name, error);
    }
    ok = write_text(fd, directory, state_name, head, error) &&
         write_text(fd, directory, state_name, text, error) &&
         write_text(fd, directory, state_name, state_tail, error);
    free(text);
    return ok;
}

bool kumo_snapshot_write(const char *directory, const json_t *config, const json_t *state,
                         const KumoMemory *memory, GError **error)
{
    kumo_auto_fd dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    kumo_auto_fd config_fd = -1, memory_fd = -1, sums_fd = -1, state_fd = -1;
    g_autoptr(KumoMemorySums) sums = kumo_memory_file_new_sums(memory);
    g_autofree char *sums_sum = NULL;

    if (dir_fd < 0) {
        kumo_set_error_errno(error, errno, "snapshot %s", directory);
        return false;
    }
    config_fd = create(dir_fd, directory, config_name, error);
    if (config_fd < 0)
        return false;
    memory_fd = create(dir_fd, directory, memory_name, error);
    if (memory_fd < 0)
        goto fail;
    sums_fd = create(dir_fd, directory, sums_name, error);
    if (sums_fd < 0)
        goto fail;
    state_fd = create(dir_fd, directory, state_name, error);
    if (state_fd < 0)
        goto fail;
    if (!write_json(config_fd, directory, config_name, config, JSON_INDENT(2), error))
        goto fail;
    if (!kumo_memory_file_write(memory_fd, memory, sums, error)) {
        kumo_prefix_error(error, "snapshot %s/%s", directory, memory_name);
        goto fail;
    }
    if (!write_sums(sums_fd, directory, sums, &sums_sum, error) ||
        !write_state(state_fd, directory, state, sums_sum, error))
        goto fail;
    return true;

fail:
    /* Only what is ours: a file that was there before has made create() fail. */
    if (state_fd >= 0)
        unlinkat(dir_fd, state_name, 0);
    if (sums_fd >= 0)
        unlinkat(dir_fd, sums_name, 0);
    if (memory_fd >= 0)
        unlinkat(dir_fd, memory_name, 0);
    unlinkat(dir_fd, config_name, 0);
    return false;
}

/* --- reading --- */

static int open_file(int dir_fd, const char *directory, const char *name, off_t *ret_size,
                     GError **error)
{
    kumo_auto_fd fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        failed(directory, name, error);
        return -1;
    }
    if (!S_ISREG(st.st_mode)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "snapshot %s/%s: is not a regular file",
                    directory, name);
        return -1;
    }
    *ret_size = st.st_size;
    return kumo_fd_steal(&fd);
}

/* Returns: (transfer full): *@ret_len bytes, or NULL with @error set. */
static char *read_whole(int dir_fd, const char *directory, const char *name, int max_bytes,
                        size_t *ret_len, GError **error)
{
    off_t size = 0;
    kumo_auto_fd fd = open_file(dir_fd, directory, name, &size, error);
    g_autofree char *text = NULL;
    ssize_t got;

    if (fd < 0)
        return NULL;
    if (size > max_bytes) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "snapshot %s/%s: has %" G_GINT64_FORMAT " bytes, at most %d are allowed",
                    directory, name, (gint64)size, max_bytes);
        return NULL;
    }
    text = g_malloc((size_t)size + 1);
    got = kumo_pread_full(fd, text, (size_t)size, 0);
    if (got < 0) {
        failed(directory, name, error);
        return NULL;
    }
    *ret_len = (size_t)got;
    return g_steal_pointer(&text);
}

static json_t *parse_json(const char *directory, const char *name, const char *text, size_t len,
                          GError **error)
{
    json_error_t where;
    json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);

    if (!json)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "snapshot %s/%s: line %d: is not JSON: %s", directory, name, where.line,
                    where.text);
    return json;
}

static json_t *read_json(int dir_fd, const char *directory, const char *name, GError **error)
{
    size_t len = 0;
    g_autofree char *text = read_whole(dir_fd, directory, name, JSON_MAX_BYTES, &len, error);

    return text ? parse_json(directory, name, text, len, error) : NULL;
}

static bool open_sums(KumoSnapshot *snapshot, int dir_fd, const char *expected, GError **error)
{
    const char *directory = snapshot->directory;
    size_t len = 0;
    g_autofree char *data = read_whole(dir_fd, directory, sums_name, SUMS_MAX_BYTES, &len, error);
    g_autofree char *sum = data ? sums_checksum(data, len) : NULL;

    if (!data)
        return false;
    if (g_strcmp0(sum, expected) != 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "snapshot %s/%s: is damaged, or another one than %s says", directory, sums_name,
                    state_name);
        return false;
    }
    snapshot->sums = kumo_memory_sums_read(data, len, error);
    if (!snapshot->sums)
        kumo_prefix_error(error, "snapshot %s/%s", directory, sums_name);
    return snapshot->sums != NULL;
}

/* Whether @text, which has been parsed and has nothing but two checksums and the state, has these
 * as kumo writes them, and the state with the checksum that it says. */
static bool is_right_as_written(const char *text, size_t len, const char *saved,
                                const char *sums_sum)
{
    g_autofree char *head = saved && sums_sum ? state_head(saved, sums_sum) : NULL;
    g_autofree char *sum = NULL;
    size_t head_len = head ? strlen(head) : 0, tail_len = strlen(state_tail);

    if (!head || len < head_len + tail_len || memcmp(text, head, head_len) != 0 ||
        memcmp(text + len - tail_len, state_tail, tail_len) != 0)
        return false;
    sum = g_compute_checksum_for_data(G_CHECKSUM_SHA256, (const guchar *)text + head_len,
                                      len - head_len - tail_len);
    return g_str_equal(sum, saved);
}

static bool is_right(const json_t *state, const char *saved)
{
    char *text = canonical(state);
    g_autofree char *sum = checksum(text);

    free(text);
    return g_strcmp0(saved, sum) == 0;
}

static bool open_state(KumoSnapshot *snapshot, int dir_fd, GError **error)
{
    const char *directory = snapshot->directory;
    size_t len = 0;
    g_autofree char *text = read_whole(dir_fd, directory, state_name, JSON_MAX_BYTES, &len, error);
    json_t *whole = text ? parse_json(directory, state_name, text, len, error) : NULL;
    const char *saved = json_string_value(json_object_get(whole, "sha256"));
    const json_t *sums_sum = json_object_get(whole, sums_key);
    bool ok;

    if (!whole)
        return false;
    snapshot->state = json_incref(json_object_get(whole, "state"));
    /* To write it down again takes as long as to read it: only where it has to be. */
    if (!json_is_object(snapshot->state) || json_object_size(whole) != (sums_sum ? 3 : 2) ||
        (!is_right_as_written(text, len, saved, json_string_value(sums_sum)) &&
         !is_right(snapshot->state, saved))) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "snapshot %s/%s: is damaged: its checksum is wrong", directory, state_name);
        json_decref(whole);
        return false;
    }
    ok = !sums_sum || open_sums(snapshot, dir_fd, json_string_value(sums_sum), error);
    json_decref(whole);
    return ok;
}

KumoSnapshot *kumo_snapshot_open(const char *directory, GError **error)
{
    g_autoptr(KumoSnapshot) snapshot = g_new0(KumoSnapshot, 1);
    kumo_auto_fd dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    off_t size = 0;

    snapshot->memory_fd = -1;
    snapshot->directory = g_strdup(directory);
    if (dir_fd < 0) {
        kumo_set_error_errno(error, errno, "snapshot %s", directory);
        return NULL;
    }
    snapshot->config = read_json(dir_fd, directory, config_name, error);
    if (!snapshot->config || !open_state(snapshot, dir_fd, error))
        return NULL;
    snapshot->memory_fd = open_file(dir_fd, directory, memory_name, &size, error);
    return snapshot->memory_fd < 0 ? NULL : g_steal_pointer(&snapshot);
}

void kumo_snapshot_free(KumoSnapshot *snapshot)
{
    if (!snapshot)
        return;
    g_free(snapshot->directory);
    json_decref(snapshot->config);
    json_decref(snapshot->state);
    kumo_fd_clear(&snapshot->memory_fd);
    kumo_memory_sums_unref(snapshot->sums);
    g_free(snapshot);
}

static bool prefix_memory(const KumoSnapshot *snapshot, bool ok, GError **error)
{
    if (!ok)
        kumo_prefix_error(error, "snapshot %s/%s", snapshot->directory, memory_name);
    return ok;
}

bool kumo_snapshot_load_memory(const KumoSnapshot *snapshot, KumoMemory *memory, GError **error)
{
    return prefix_memory(
        snapshot, kumo_memory_file_read(snapshot->memory_fd, memory, snapshot->sums, error), error);
}

static bool is_private(const KumoMemory *memory)
{
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        if (part->fd >= 0 || part->page_size != (uint64_t)sysconf(_SC_PAGESIZE))
            return false;
    }
    return true;
}

bool kumo_snapshot_serve_memory(const KumoSnapshot *snapshot, KumoMemory *memory,
                                const KumoMemoryDemandWatch *watch, GError **error)
{
    g_autofree char *name = g_strdup_printf("snapshot %s/%s", snapshot->directory, memory_name);
    g_autoptr(GError) local = NULL;

    if (kumo_memory_demand_start(snapshot->memory_fd, name, memory, snapshot->sums, watch, &local))
        return true;
    if (!g_error_matches(local, KUMO_ERROR, KUMO_ERROR_DENIED) || !is_private(memory)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    kumo_info("%s: mapped, as %s", name, local->message);
    return prefix_memory(snapshot, kumo_memory_file_map(snapshot->memory_fd, memory, error), error);
}
