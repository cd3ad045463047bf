/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/netns.h"

#include <fcntl.h>
#include <glib.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "vmm-core/base/fd.h"

static bool put(const char *path, const char *text)
{
    kumo_auto_fd fd = open(path, O_WRONLY | O_CLOEXEC);

    return fd >= 0 && kumo_write_full(fd, text, strlen(text));
}

const char *kumo_test_enter_netns(void)
{
    g_autofree char *uid_map = g_strdup_printf("0 %u 1", geteuid());
    kumo_auto_fd tun = -1;

    if (unshare(CLONE_NEWNET) < 0) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
            return "no network namespace can be made";
        put("/proc/self/uid_map", uid_map);
    }
    tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (tun < 0)
        return "/dev/net/tun cannot be opened";
    /* Neighbour discovery would be traffic that no test asked for. */
    put("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    return NULL;
}
