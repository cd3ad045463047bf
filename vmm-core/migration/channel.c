/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/channel.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

bool kumo_channel_wait(KumoChannel *channel, short events, GError **error)
{
    for (;;) {
        g_autoptr(GError) local = NULL;
        int patience_ms = atomic_load(&channel->patience_ms);

        if (kumo_migration_cancel_wait(channel->cancel, channel->fd, events, patience_ms, &local))
            return true;
        if (channel->wait_on && !atomic_load(&channel->cancel->set) &&
            channel->wait_on(channel->wait_opaque))
            continue;
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
}

void kumo_channel_take_leave(KumoChannel *channel, int patience_ms)
{
    static KumoMigrationCancel never = { .fd = -1 };

    channel->cancel = &never;
    channel->wait_on = NULL;
    atomic_store(&channel->patience_ms, patience_ms);
}

void kumo_channel_hang_up(KumoChannel *channel)
{
    if (channel->fd >= 0 && channel->is_socket)
        shutdown(channel->fd, SHUT_RDWR);
}

void kumo_channel_end_writing(KumoChannel *channel)
{
    if (channel->fd >= 0 && channel->is_socket)
        shutdown(channel->fd, SHUT_WR);
}

void kumo_channel_close(KumoChannel *channel)
{
    if (channel->codec)
        channel->codec->end(g_steal_pointer(&channel->session));
    channel->codec = NULL;
    kumo_fd_clear(&channel->fd);
}

bool kumo_channel_sync(KumoChannel *channel, GError **error)
{
    if (channel->is_socket || fdatasync(channel->fd) == 0 || errno == EINVAL || errno == EROFS)
        return true;
    kumo_set_error_errno(error, errno, "writing the stream to the disk");
    return false;
}

bool kumo_channel_is_unix(const KumoChannel *channel)
{
    int family = 0;
    socklen_t len = sizeof(family);

    return getsockopt(channel->fd, SOL_SOCKET, SO_DOMAIN, &family, &len) == 0 && family == AF_UNIX;
}

/* --- transfer --- */

typedef union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
} FdMessage;

static bool peer_failed(const KumoChannel *channel, bool sending, GError **error)
{
    if (channel->is_socket)
        kumo_set_error_errno(error, errno, "%s the other side",
                             sending ? "sending to" : "receiving from");
    else
        kumo_set_error_errno(error, errno, "%s the stream", sending ? "writing" : "reading");
    return false;
}

bool kumo_channel_write(KumoChannel *channel, struct iovec *iov, unsigned n_iov, int fd,
                        GError **error)
{
    FdMessage control = { 0 };

    if (channel->codec)
        return channel->codec->write(channel, iov, n_iov, error);
    while (n_iov > 0) {
        struct msghdr message = { .msg_iov = iov, .msg_iovlen = MIN(n_iov, IOV_MAX) };
        ssize_t n;

        if (!kumo_migration_cancel_check(channel->cancel, error))
            return false;
        if (fd >= 0) {
            message.msg_control = control.bytes;
            message.msg_controllen = sizeof(control.bytes);
            *CMSG_FIRSTHDR(&message) = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)),
                                                         .cmsg_level = SOL_SOCKET,
                                                         .cmsg_type = SCM_RIGHTS };
            memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &fd, sizeof(fd));
        }
        n = channel->is_socket ? sendmsg(channel->fd, &message, MSG_NOSIGNAL)
                               : writev(channel->fd, iov, (int)message.msg_iovlen);
        if (n < 0 && errno == EAGAIN) {
            if (!kumo_channel_wait(channel, POLLOUT, error))
                return false;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return peer_failed(channel, true, error);
        fd = -1;
        atomic_fetch_add_explicit(&channel->sent_bytes, (uint64_t)n, memory_order_relaxed);
        for (; n_iov > 0 && (size_t)n >= iov->iov_len; n_iov--)
            n -= (ssize_t)iov++->iov_len;
        if (n_iov > 0) {
            iov->iov_base = (char *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
    return true;
}

/* The first descriptor of @message goes to @ret_fd if that has none, the others are closed. */
static void take_fds(struct msghdr *message, int *ret_fd)
{
    for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at)) {
        if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < (at->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(at) + i * sizeof(int), sizeof(fd));
            if (ret_fd && *ret_fd < 0)
                *ret_fd = fd;
            else
                close(fd);
        }
    }
}

bool kumo_channel_read(KumoChannel *channel, void *buf, size_t len, int *ret_fd, GError **error)
{
    if (ret_fd)
        *ret_fd = -1;
    if (channel->codec)
        return channel->codec->read(channel, buf, len, error);
    while (len > 0) {
        FdMessage control;
        struct iovec iov = { .iov_base = buf, .iov_len = len };
        struct msghdr message = { .msg_iov = &iov,
                                  .msg_iovlen = 1,
                                  .msg_control = control.bytes,
                                  .msg_controllen = sizeof(control.bytes) };
        ssize_t n;

        if (!kumo_migration_cancel_check(channel->cancel, error))
            break;
        if (channel->is_socket) {
            n = recvmsg(channel->fd, &message, MSG_CMSG_CLOEXEC);
        } else {
            n = read(channel->fd, buf, len);
            message.msg_controllen = 0;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            if (!kumo_channel_wait(channel, POLLIN, error))
                break;
            continue;
        }
        if (n < 0) {
            peer_failed(channel, false, error);
            break;
        }
        take_fds(&message, ret_fd);
        if (n == 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO,
                        channel->is_socket ? "the other side closed the connection"
                                           : "the stream ends before it is complete");
            break;
        }
        channel->received_bytes += (uint64_t)n;
        buf = (char *)buf + n;
        len -= (size_t)n;
    }
    if (len > 0 && ret_fd)
        kumo_fd_clear(ret_fd);
    return len == 0;
}
