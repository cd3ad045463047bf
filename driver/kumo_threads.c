/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_threads.h"

#include "driver/compat.h"
#include "virstring.h"

int kumoThreadsForEach(pid_t pid, kumoThreadFunc func, void *opaque)
{
    g_autofree char *tasks = g_strdup_printf("/proc/%lld/task", (long long)pid);
    g_autoptr(GDir) dir = g_dir_open(tasks, 0, NULL);
    const char *entry;
    int rc = 0;

    while (rc == 0 && dir && (entry = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(tasks, entry, "comm", NULL);
        g_autofree char *name = NULL;
        pid_t tid;

        if (g_file_get_contents(path, &name, NULL, NULL) &&
            virStrToLong_i(entry, NULL, 10, &tid) == 0)
            rc = func(tid, g_strchomp(name), opaque);
    }
    return rc;
}
