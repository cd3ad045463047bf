/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_stats.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "driver/kumo_monitor.h"
#include "driver/kumo_threads.h"
#include "virfile.h"
#include "virprocess.h"
#include "virstring.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoStatsCounters(virDomainObj *vm, json_t **counters)
{
    kumoMonitor *mon = kumoDomainObjEnterMonitor(vm);
    int rc = kumoMonitorGetCounters(mon, counters);

    if (kumoDomainObjExitMonitor(vm, mon) < 0 && rc == 0) {
        g_clear_pointer(counters, json_decref);
        rc = -1;
    }
    return rc;
}

/* The VMM may have been taken over by its guest: a number that is none is none. */
static bool kumoStatsNumber(json_t *counters, const char *name, unsigned long long *value)
{
    json_t *number = json_object_get(counters, name);

    if (!json_is_integer(number) || json_integer_value(number) < 0)
        return false;
    *value = (unsigned long long)json_integer_value(number);
    return true;
}

bool kumoStatsAddBlock(json_t *counters, const char *alias, kumoBlockStats *stats)
{
    json_t *disk = json_object_get(counters, alias);
    unsigned long long readOps = 0, readBytes = 0, readUs = 0;
    unsigned long long writeOps = 0, writeBytes = 0, writeUs = 0;

    if (!kumoStatsNumber(disk, "read_ops", &readOps) ||
        !kumoStatsNumber(disk, "read_bytes", &readBytes) ||
        !kumoStatsNumber(disk, "write_ops", &writeOps) ||
        !kumoStatsNumber(disk, "write_bytes", &writeBytes))
        return false;
    ignore_value(kumoStatsNumber(disk, "read_latency_avg", &readUs));
    ignore_value(kumoStatsNumber(disk, "write_latency_avg", &writeUs));
    stats->readOps += readOps;
    stats->readBytes += readBytes;
    stats->readTimeNs += readOps * readUs * 1000;
    stats->writeOps += writeOps;
    stats->writeBytes += writeBytes;
    stats->writeTimeNs += writeOps * writeUs * 1000;
    return true;
}

int kumoStatsMemory(virDomainObj *vm, json_t *counters, virDomainMemoryStatPtr stats,
                    unsigned int nstats)
{
    static const struct {
        const char *name;
        virDomainMemoryStatTags tag;
        unsigned int divisor; /* bytes are told as KiB */
    } known[] = {
        { "swap_in", VIR_DOMAIN_MEMORY_STAT_SWAP_IN, 1024 },
        { "swap_out", VIR_DOMAIN_MEMORY_STAT_SWAP_OUT, 1024 },
        { "major_faults", VIR_DOMAIN_MEMORY_STAT_MAJOR_FAULT, 1 },
        { "minor_faults", VIR_DOMAIN_MEMORY_STAT_MINOR_FAULT, 1 },
        { "free_memory", VIR_DOMAIN_MEMORY_STAT_UNUSED, 1024 },
        { "total_memory", VIR_DOMAIN_MEMORY_STAT_AVAILABLE, 1024 },
        { "available_memory", VIR_DOMAIN_MEMORY_STAT_USABLE, 1024 },
        { "disk_caches", VIR_DOMAIN_MEMORY_STAT_DISK_CACHES, 1024 },
        { "hugetlb_allocations", VIR_DOMAIN_MEMORY_STAT_HUGETLB_PGALLOC, 1 },
        { "hugetlb_failures", VIR_DOMAIN_MEMORY_STAT_HUGETLB_PGFAIL, 1 },
        { "stats_time", VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE, 1 },
    };
    const virDomainMemballoonDef *balloon = vm->def->memballoon;
    json_t *device =
        json_object_get(counters, balloon && balloon->info.alias ? balloon->info.alias : "");
    unsigned long long total = virDomainDefGetMemoryTotal(vm->def);
    unsigned long long value = 0;
    kumoCompatRss rss = 0;
    unsigned int n = 0;

    if (n < nstats) {
        ignore_value(kumoStatsNumber(device, "actual_bytes", &value));
        stats[n].tag = VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON;
        stats[n++].val = total - MIN(value / 1024, total);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(known) && n < nstats; i++) {
        if (!kumoStatsNumber(device, known[i].name, &value))
            continue;
        stats[n].tag = (int)known[i].tag;
        stats[n++].val = value / known[i].divisor;
    }
    if (n < nstats && virProcessGetStatInfo(NULL, NULL, NULL, NULL, &rss, vm->pid, 0) == 0) {
        stats[n].tag = VIR_DOMAIN_MEMORY_STAT_RSS;
        stats[n++].val = (unsigned long long)rss;
    }
    return (int)n;
}

int kumoStatsImage(const virStorageSource *src, kumoImageSize *size)
{
    VIR_AUTOCLOSE fd = -1;
    uint64_t bytes = 0;
    struct stat sb;

    if (!src->path || (fd = open(src->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) < 0 ||
        fstat(fd, &sb) < 0 || (S_ISBLK(sb.st_mode) && ioctl(fd, BLKGETSIZE64, &bytes) < 0)) {
        virReportSystemError(errno, _("cannot look at the image %s"), NULLSTR(src->path));
        return -1;
    }
    size->physical = S_ISBLK(sb.st_mode) ? bytes : (unsigned long long)sb.st_size;
    /* Only raw images are used. */
    size->capacity = size->physical;
    size->allocation =
        S_ISBLK(sb.st_mode) ? bytes : (unsigned long long)sb.st_blocks * 512; /* st_blocks' unit */
    return 0;
}

typedef struct {
    const char *name;
    pid_t tid;
} kumoNamedThread;

static int kumoStatsIsThread(pid_t tid, const char *name, void *opaque)
{
    kumoNamedThread *wanted = opaque;

    if (STRNEQ(name, wanted->name))
        return 0;
    wanted->tid = tid;
    return 1;
}

pid_t kumoStatsVcpuThread(pid_t pid, unsigned int vcpu)
{
    g_autofree char *name = g_strdup_printf("vcpu%u", vcpu);
    kumoNamedThread wanted = { .name = name };

    kumoThreadsForEach(pid, kumoStatsIsThread, &wanted);
    return wanted.tid;
}
