/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/api/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/config/option_string.h"

enum { BACKLOG = 128 }; /* while the main loop is at something else */

static int open_given(const char *spec, GError **error)
{
    uint64_t number = 0;
    int domain = 0;
    int listening = 0;
    socklen_t len = sizeof(int);
    int fd;

    if (!kumo_option_parse_u64(spec + strlen("fd="), &number) || number > G_MAXINT) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "--api-socket %s: must be the number of a descriptor", spec);
        return -1;
    }
    fd = (int)number;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "--api-socket %s: must be a listening UNIX socket", spec);
        return -1;
    }
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || !kumo_fd_set_nonblock(fd, true)) {
        kumo_set_error_errno(error, errno, "--api-socket %s", spec);
        return -1;
    }
    return fd;
}

/* Locks the file beside the socket; whoever ends removes it, so the locked one must still be there.
 */
static int take_lock(const char *lock_path, GError **error)
{
    for (;;) {
        kumo_auto_fd fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
        struct stat locked, named;

        if (fd < 0) {
            kumo_set_error_errno(error, errno, "API socket's lock %s", lock_path);
            return -1;
        }
        if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
            if (errno == EAGAIN || errno == EACCES)
                g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT,
                            "API socket's lock %s: another process holds it", lock_path);
            else
                kumo_set_error_errno(error, errno, "API socket's lock %s", lock_path);
            return -1;
        }
        if (fstat(fd, &locked) == 0 && stat(lock_path, &named) == 0 &&
            locked.st_dev == named.st_dev && locked.st_ino == named.st_ino)
            return kumo_fd_steal(&fd);
    }
}

/* The lock is ours, so a socket in the way is stale unless something else than kumo listens there.
 */
static bool remove_stale(const struct sockaddr_un *address, GError **error)
{
    struct stat info;
    kumo_auto_fd probe = -1;

    if (lstat(address->sun_path, &info) < 0) {
        if (errno == ENOENT)
            return true;
        kumo_set_error_errno(error, errno, "API socket %s", address->sun_path);
        return false;
    }
    if (!S_ISSOCK(info.st_mode)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT,
                    "API socket %s: the path is taken by something that is no socket",
                    address->sun_path);
        return false;
    }
    probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0) {
        kumo_set_error_errno(error, errno, "API socket");
        return false;
    }
    if (connect(probe, (const struct sockaddr *)address, sizeof(*address)) == 0 ||
        errno != ECONNREFUSED) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT, "API socket %s: it is in use",
                    address->sun_path);
        return false;
    }
    if (unlink(address->sun_path) < 0) {
        kumo_set_error_errno(error, errno, "stale API socket %s", address->sun_path);
        return false;
    }
    return true;
}

static bool open_path(KumoApiListener *listener, const char *path, GError **error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    g_autofree char *lock_path = g_strconcat(path, ".lock", NULL);
    kumo_auto_fd fd = -1;

    if (!*path || strlen(path) >= sizeof(address.sun_path)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "API socket %s: must be a path of 1 to %zu bytes", path,
                    sizeof(address.sun_path) - 1);
        return false;
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    listener->lock_fd = take_lock(lock_path, error);
    if (listener->lock_fd < 0)
        return false;
    listener->lock_path = g_steal_pointer(&lock_path);
    if (!remove_stale(&address, error))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* The mode of the unbound socket becomes the file's: there is no moment in which others may
     * connect. */
    if (fd < 0 || fchmod(fd, 0600) < 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        kumo_set_error_errno(error, errno, "API socket %s", path);
        return false;
    }
    listener->path = g_strdup(path);
    if (listen(fd, BACKLOG) < 0) {
        kumo_set_error_errno(error, errno, "API socket %s", path);
        return false;
    }
    listener->fd = kumo_fd_steal(&fd);
    return true;
}

const char *kumo_api_listener_path(const char *spec)
{
    if (g_str_has_prefix(spec, "fd="))
        return NULL;
    return g_str_has_prefix(spec, "path=") ? spec + strlen("path=") : spec;
}

bool kumo_api_listener_open(KumoApiListener *listener, const char *spec, GError **error)
{
    const char *path = kumo_api_listener_path(spec);

    *listener = (KumoApiListener)KUMO_API_LISTENER_INIT;
    if (!path) {
        listener->fd = open_given(spec, error);
        return listener->fd >= 0;
    }
    if (open_path(listener, path, error))
        return true;
    kumo_api_listener_close(listener);
    return false;
}

void kumo_api_listener_close(KumoApiListener *listener)
{
    if (listener->path)
        unlink(listener->path);
    if (listener->lock_path)
        unlink(listener->lock_path);
    kumo_fd_clear(&listener->fd);
    kumo_fd_clear(&listener->lock_fd);
    g_clear_pointer(&listener->path, g_free);
    g_clear_pointer(&listener->lock_path, g_free);
}
