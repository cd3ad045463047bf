/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_pin.h"

#include "domain-xml/xml.h"
#include "driver/kumo_monitor.h"
#include "virprocess.h"
#include "virstring.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoPinVcpus(virDomainObj *vm)
{
    json_t *changes = kumo_xml_affinity_json(vm->def);
    kumoMonitor *mon;
    int rc;

    if (!changes)
        return -1;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorUpdateCpus(mon, changes);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    return rc;
}

int kumoPinEmulator(pid_t pid, virBitmap *cpus)
{
    g_autofree char *tasks = g_strdup_printf("/proc/%lld/task", (long long)pid);
    g_autoptr(GDir) dir = NULL;
    const char *name;

    /* The main thread first: new threads are its children. */
    if (virProcessSetAffinity(pid, cpus, false) < 0)
        return -1;
    dir = g_dir_open(tasks, 0, NULL);
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(tasks, name, "comm", NULL);
        g_autofree char *comm = NULL;
        pid_t tid;

        /* A thread that has ended meanwhile needs no place. */
        if (g_file_get_contents(path, &comm, NULL, NULL) && !STRPREFIX(comm, "vcpu") &&
            virStrToLong_i(name, NULL, 10, &tid) == 0 && virProcessSetAffinity(tid, cpus, true) < 0)
            return -1;
    }
    return 0;
}
