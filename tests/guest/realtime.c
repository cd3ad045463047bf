/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * realtime COMMAND...: runs COMMAND with the highest real-time priority, for stock guests that are
 * to be kept from everything else. Linked without libraries, for an initramfs that has none.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sched_param highest = { .sched_priority = sched_get_priority_max(SCHED_FIFO) };

    if (argc < 2 || sched_setscheduler(0, SCHED_FIFO, &highest) < 0 ||
        execvp(argv[1], argv + 1) < 0)
        fprintf(stderr, "realtime: %s\n", argc < 2 ? "which command?" : strerror(errno));
    return 1;
}
