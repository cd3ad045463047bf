/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "domain-xml/xml.h"
#include "domain_audit.h"
#include "driver/conf/kumo_address.h"
#include "driver/conf/kumo_capabilities.h"
#include "driver/kumo_cgroup.h"
#include "driver/kumo_events.h"
#include "driver/kumo_interface.h"
#include "driver/kumo_job.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_pin.h"
#include "driver/kumo_prepare.h"
#include "virclosecallbacks.h"
#include "vircommand.h"
#include "virfile.h"
#include "virpidfile.h"
#include "virprocess.h"
#include "virtime.h"
#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_process");

/* How much of a VMM's last words goes into an error message. */
#define KUMO_LOG_TAIL 1024

#define KUMO_END_WAIT_MS 200

/* How long a process may take to end in order, and how long the kernel may take to end it. */
#define KUMO_TERM_WAIT_US (5 * G_USEC_PER_SEC)
#define KUMO_KILL_WAIT_US (30 * G_USEC_PER_SEC)

char *kumoProcessApiSocket(const kumoDomainObjPrivate *priv)
{
    return g_strdup_printf("%s/api.sock", priv->dir);
}

char *kumoProcessEventFifo(const kumoDomainObjPrivate *priv)
{
    return g_strdup_printf("%s/events", priv->dir);
}

static char *kumoProcessPidFile(const kumoDomainObjPrivate *priv)
{
    return g_strdup_printf("%s/pid", priv->dir);
}

/* Has a process ended that nobody has waited for yet? */
static bool kumoProcessIsZombie(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%lld/stat", (long long)pid);
    g_autofree char *text = NULL;
    const char *end;

    if (!g_file_get_contents(path, &text, NULL, NULL) || !(end = strrchr(text, ')')))
        return true;
    return end[1] == ' ' && (end[2] == 'Z' || end[2] == 'X');
}

bool kumoProcessIsAlive(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    unsigned long long startTime = 0;

    if (priv->pidfd >= 0) {
        struct pollfd pfd = { .fd = priv->pidfd, .events = POLLIN };

        return poll(&pfd, 1, 0) == 0;
    }
    return vm->pid > 0 && kill(vm->pid, 0) == 0 &&
           virProcessGetStartTime(vm->pid, &startTime) == 0 && startTime == priv->startTime &&
           !kumoProcessIsZombie(vm->pid);
}

char *kumoProcessLogTail(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    char buf[KUMO_LOG_TAIL + 1];
    VIR_AUTOCLOSE fd = -1;
    struct stat sb;
    off_t from;
    ssize_t n;

    if (!priv->logPath || (fd = open(priv->logPath, O_RDONLY | O_CLOEXEC)) < 0 ||
        fstat(fd, &sb) < 0)
        return NULL;
    from = MAX(priv->logStart, sb.st_size - KUMO_LOG_TAIL);
    if ((n = pread(fd, buf, KUMO_LOG_TAIL, from)) <= 0)
        return NULL;
    buf[n] = '\0';
    return g_utf8_make_valid(g_strstrip(buf), -1);
}

/* Puts the VMM's last words behind an error that its end caused. */
static void kumoProcessExplainError(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    struct pollfd pfd = { .fd = priv->pidfd, .events = POLLIN };
    g_autofree char *tail = NULL;
    g_autofree char *message = NULL;

    if (priv->handshake)
        return;
    /* A process that ends closes its sockets a moment before it is gone. */
    if (priv->pidfd >= 0)
        poll(&pfd, 1, KUMO_END_WAIT_MS);
    if (kumoProcessIsAlive(vm) || !(tail = kumoProcessLogTail(vm)) || tail[0] == '\0')
        return;
    message = g_strdup(virGetLastErrorMessage());
    virReportError(VIR_ERR_OPERATION_FAILED, _("%s; the VMM's log ends with: %s"), message, tail);
}

int kumoProcessWatch(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    g_autofree char *sock = kumoProcessApiSocket(priv);
    g_autofree char *fifo = kumoProcessEventFifo(priv);

    if ((priv->pidfd = (int)syscall(SYS_pidfd_open, vm->pid, 0)) < 0) {
        virReportSystemError(errno, _("cannot watch process %lld"), (long long)vm->pid);
        return -1;
    }
    if (!(priv->mon = kumoMonitorNew(sock, cfg->monitorTimeoutMs)) ||
        !(priv->events = kumoEventsNew(vm, fifo, priv->pidfd)))
        return -1;
    return 0;
}

void kumoProcessForget(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    kumoEventsClose(g_steal_pointer(&priv->events));
    g_clear_pointer(&priv->mon, virObjectUnref);
    VIR_FORCE_CLOSE(priv->pidfd);
}

void kumoProcessFindLog(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);

    g_free(priv->logPath);
    priv->logPath = g_strdup_printf("%s/%s.log", cfg->logDir, vm->def->name);
    priv->logStart = 0;
}

/* Writes a headline into the domain's log and returns its descriptor. */
static int kumoProcessOpenLog(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autofree char *now = virTimeStringNow();
    VIR_AUTOCLOSE fd = -1;

    kumoProcessFindLog(vm);
    if ((fd = open(priv->logPath, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0) {
        virReportSystemError(errno, _("cannot open the log file %s"), priv->logPath);
        return -1;
    }
    dprintf(fd, "%s: starting domain %s\n", now ? now : "", vm->def->name);
    priv->logStart = lseek(fd, 0, SEEK_END);
    return g_steal_fd(&fd);
}

/* The last line of a run in the domain's log. */
static void kumoProcessCloseLog(virDomainObj *vm, virDomainShutoffReason reason)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autofree char *now = virTimeStringNow();
    VIR_AUTOCLOSE fd = -1;

    if (priv->logPath && (fd = open(priv->logPath, O_WRONLY | O_APPEND | O_CLOEXEC)) >= 0)
        dprintf(fd, "%s: domain %s is off, reason: %s\n", now ? now : "", vm->def->name,
                virDomainShutoffReasonTypeToString(reason));
}

/* "NAME.log", or what a rotation made of it: "NAME.log.1". */
static bool kumoProcessIsLog(const char *file, const char *domain)
{
    return g_str_has_prefix(file, domain) && STRPREFIX(file + strlen(domain), ".log") &&
           strspn(file + strlen(domain) + strlen(".log"), ".0123456789") ==
               strlen(file + strlen(domain) + strlen(".log"));
}

void kumoProcessRemoveLogs(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    g_autoptr(GDir) dir = g_dir_open(cfg->logDir, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(cfg->logDir, name, NULL);

        if (kumoProcessIsLog(name, vm->def->name) && unlink(path) < 0)
            VIR_WARN("domain %s: %s could not be removed: %s", vm->def->name, path,
                     g_strerror(errno));
    }
}

static virCommand *kumoProcessCommand(virDomainObj *vm, const kumoDriverConfig *cfg, int apiFd,
                                      int eventFd)
{
    static const char *const verbosity[] = { NULL, "-v", "-vv", "-vvv" };
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autofree char *pidfile = kumoProcessPidFile(priv);
    g_autofree char *binary = NULL;
    virCommand *cmd;

    if (vm->def->emulator && g_path_is_absolute(vm->def->emulator))
        binary = g_strdup(vm->def->emulator);
    else if (!(binary = kumoBinaryPath(cfg)))
        return NULL;

    cmd = virCommandNew(binary);
    virCommandAddArg(cmd, "--api-socket");
    virCommandAddArgFormat(cmd, "fd=%d", apiFd);
    virCommandAddArg(cmd, "--event-monitor");
    virCommandAddArgFormat(cmd, "fd=%d", eventFd);
    /* After the guest's end the process stays: that is how its power-off differs from a crash. */
    virCommandAddArg(cmd, "--no-shutdown");
    if (cfg->seccomp)
        virCommandAddArgList(cmd, "--seccomp", cfg->seccomp, NULL);
    if (verbosity[cfg->logLevel])
        virCommandAddArg(cmd, verbosity[cfg->logLevel]);

    virCommandPassFD(cmd, apiFd, 0);
    virCommandPassFD(cmd, eventFd, 0);
    virCommandAddEnvPassCommon(cmd);
    virCommandAddEnvPass(cmd, "KUMO_MODULE_DIR"); /* of one that is not installed */
    virCommandSetPidFile(cmd, pidfile);
    virCommandDaemonize(cmd);
    return cmd;
}

/*
 * Starts the process, which waits before it becomes the VMM until it is notified: it ends with
 * the daemon as long as nothing on disk tells of it. vm->pid and its start time are set then.
 *
 * Returns: (transfer full): what to notify, or NULL with the error reported.
 */
static virCommand *kumoProcessSpawn(virDomainObj *vm, const kumoDriverConfig *cfg)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virSecurityManager *security = priv->driver->security;
    g_autoptr(virCommand) cmd = NULL;
    g_autofree char *sock = kumoProcessApiSocket(priv);
    g_autofree char *fifo = kumoProcessEventFifo(priv);
    g_autofree char *pidfile = kumoProcessPidFile(priv);
    g_autofree char *text = NULL;
    VIR_AUTOCLOSE apiFd = -1;
    VIR_AUTOCLOSE eventFd = -1;
    VIR_AUTOCLOSE logFd = -1;
    int rc;

    if ((logFd = kumoProcessOpenLog(vm)) < 0 || (apiFd = kumoPrepareSocket(sock)) < 0 ||
        (eventFd = kumoEventsMakeFifo(fifo)) < 0 ||
        !(cmd = kumoProcessCommand(vm, cfg, apiFd, eventFd)))
        return NULL;

    if ((text = virCommandToString(cmd, false))) {
        dprintf(logFd, "%s\n", text);
        priv->logStart = lseek(logFd, 0, SEEK_END);
    }
    virCommandSetOutputFD(cmd, &logFd);
    virCommandSetErrorFD(cmd, &logFd);
    virCommandRequireHandshake(cmd);
    priv->handshake = true;

    if (kumoCompatSetChildLabel(security, vm->def, cmd) < 0 ||
        virSecurityManagerPreFork(security) < 0)
        return NULL;
    rc = virCommandRun(cmd, NULL);
    virSecurityManagerPostFork(security);
    if (rc < 0)
        return NULL;

    if (virPidFileReadPath(pidfile, &vm->pid) < 0) {
        virReportError(VIR_ERR_INTERNAL_ERROR, _("domain '%s': its VMM has not started"),
                       vm->def->name);
        return NULL;
    }
    if (virCommandHandshakeWait(cmd) < 0 || virProcessGetStartTime(vm->pid, &priv->startTime) < 0 ||
        kumoProcessWatch(vm) < 0)
        return NULL;
    kumoDomainSaveStatus(vm);
    return g_steal_pointer(&cmd);
}

/* Whoever sets a hard limit has said how much there may be of everything. */
static int kumoProcessAllowLocks(virDomainObj *vm)
{
    unsigned long long limit = vm->def->mem.hard_limit;
    unsigned long long bytes =
        virMemoryLimitIsSet(limit) ? limit * 1024 : VIR_DOMAIN_MEMORY_PARAM_UNLIMITED;
    g_autofree char *why = NULL;

    if (!vm->def->mem.locked || virProcessSetMaxMemLock(vm->pid, bytes) == 0)
        return 0;
    why = g_strdup(virGetLastErrorMessage());
    virReportError(VIR_ERR_OPERATION_FAILED, _("/domain/memoryBacking/locked: %s"), why);
    return -1;
}

/* Before the VM is made: the threads and the memory that it gets then follow the main thread. */
static int kumoProcessPlace(virDomainObj *vm)
{
    virBitmap *cpus =
        vm->def->cputune.emulatorpin ? vm->def->cputune.emulatorpin : vm->def->cpumask;

    if (kumoCgroupSetup(vm) < 0 || kumoProcessAllowLocks(vm) < 0)
        return -1;
    return cpus ? kumoPinEmulator(vm->pid, cpus) : 0;
}

/*
 * Everything that the VMM finds when it begins to run. What is taken from the host is on disk
 * before: a daemon that is killed meanwhile is followed by one that gives it back.
 */
static GPtrArray *kumoProcessEquip(virDomainObj *vm, const kumoMonitorReceive *incoming)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(GPtrArray) taps = NULL;

    if (kumoProcessPlace(vm) < 0 || kumoPrepareLabels(vm) < 0)
        return NULL;
    /* The kernel hands a confined process no file that its profile does not have. */
    if (incoming && incoming->fd >= 0 &&
        virSecurityManagerSetImageFDLabel(priv->driver->security, vm->def, incoming->fd) < 0)
        return NULL;
    priv->unclaimed = false;
    if (kumoInterfacesClaim(priv->driver, vm->def) < 0)
        return NULL;
    kumoDomainSaveStatus(vm);
    if (!(taps = kumoInterfacesConnect(priv->driver, vm->def)))
        return NULL;
    kumoDomainSaveStatus(vm);
    return g_steal_pointer(&taps);
}

/* Makes the VM in the VMM, up to where it only has to be booted, or has it come in. */
static int kumoProcessCreateVm(virDomainObj *vm, KumoVmConfig *config, const GPtrArray *taps,
                               const kumoMonitorReceive *incoming)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(GArray) fds = g_array_new(FALSE, FALSE, sizeof(int));
    kumoMonitor *mon;
    int rc;

    /* The text only says how many descriptors a device has; they come beside it, in the same order.
     */
    for (guint i = 0; i < config->nets->len; i++) {
        const kumoTaps *tap = g_ptr_array_index(taps, i);

        kumoTapsAnnounce(tap, g_ptr_array_index(config->nets, i));
        g_array_append_vals(fds, tap->fds, (guint)tap->nfds);
    }

    if (incoming && kumoJobStreamBegin(vm) < 0)
        return -1;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorPing(mon);
    if (rc == 0 && incoming)
        rc = kumoMonitorReceiveVm(mon, incoming, config, (const int *)(void *)fds->data, fds->len);
    else if (rc == 0)
        rc = kumoMonitorCreate(mon, config, (const int *)(void *)fds->data, fds->len);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    if (rc < 0)
        priv->stream = KUMO_STREAM_NONE;
    return rc;
}

static void kumoProcessSetPty(virDomainChrSourceDef *source, const char *path)
{
    if (source->type != VIR_DOMAIN_CHR_TYPE_PTY || !path)
        return;
    g_free(source->data.file.path);
    source->data.file.path = g_strdup(path);
}

int kumoProcessRefreshConsoles(virDomainObj *vm)
{
    g_auto(kumoMonitorInfo) info = { 0 };
    kumoMonitor *mon = kumoDomainObjEnterMonitor(vm);
    int rc = kumoMonitorGetInfo(mon, &info);

    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;

    if (vm->def->nserials > 0)
        kumoProcessSetPty(vm->def->serials[0]->source, info.serialPath);
    for (size_t i = 0; i < vm->def->nconsoles; i++) {
        virDomainChrDef *console = vm->def->consoles[i];

        kumoProcessSetPty(console->source,
                          console->targetType == VIR_DOMAIN_CHR_CONSOLE_TARGET_TYPE_VIRTIO
                              ? info.consolePath
                              : info.serialPath);
    }
    return 0;
}

int kumoProcessBoot(virDomainObj *vm)
{
    kumoMonitor *mon;
    int rc;

    if (kumoInterfacesOnline(vm->def) < 0)
        return -1;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorBoot(mon);
    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;
    return kumoCgroupPlaceVcpus(vm);
}

/* What makes a domain less safe, or harder to move, than others: for virsh dominfo and the log. */
static void kumoProcessTaint(virDomainObj *vm, const kumoDriverConfig *cfg)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (priv->driver->privileged && cfg->user == 0 &&
        virDomainObjTaint(vm, VIR_DOMAIN_TAINT_HIGH_PRIVILEGES))
        VIR_WARN("domain %s: its VMM runs as root", vm->def->name);
    if (vm->def->cpu && vm->def->cpu->mode == VIR_CPU_MODE_HOST_PASSTHROUGH &&
        virDomainObjTaint(vm, VIR_DOMAIN_TAINT_HOST_CPU))
        VIR_WARN("domain %s: its CPU is the host's, whatever that has", vm->def->name);
}

static int kumoProcessLaunch(virDomainObj *vm, bool paused, const kumoMonitorReceive *incoming)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    g_autoptr(GPtrArray) taps = NULL;
    g_autoptr(KumoVmConfig) config = NULL;
    g_autoptr(virCommand) cmd = NULL;

    priv->handshake = false;
    kumoProcessTaint(vm, cfg);
    if (kumoPrepareDomain(vm, cfg) < 0 || !(config = kumo_xml_to_config(vm->def, cfg->firmware)) ||
        kumoPrepareIdentity(vm) < 0 || !(cmd = kumoProcessSpawn(vm, cfg)) ||
        !(taps = kumoProcessEquip(vm, incoming)) || virCommandHandshakeNotify(cmd) < 0)
        return -1;
    priv->handshake = false;
    if (kumoProcessCreateVm(vm, config, taps, incoming) < 0)
        return -1;

    if (incoming)
        return 0;
    if (!paused && kumoProcessBoot(vm) < 0)
        return -1;
    priv->bootPending = paused;
    return kumoProcessRefreshConsoles(vm);
}

/* The domain is active from here on, whatever comes of it. */
static int kumoProcessBegin(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoDriver *driver = priv->driver;

    if (virDomainObjIsActive(vm)) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("the domain is already running"));
        return -1;
    }
    if (virDomainObjSetDefTransient(driver->xmlopt, vm, NULL) < 0)
        return -1;

    vm->def->id = g_atomic_int_add(&driver->lastId, 1) + 1;
    /* What an earlier run's process said does not tell why this one has not started. */
    g_clear_pointer(&priv->logPath, g_free);
    priv->beingDestroyed = false;
    priv->unclaimed = true;
    priv->ownPauses = priv->ownResumes = 0;
    priv->rebootPending = false;
    priv->migratedAway = false;
    priv->autodestroy = false;
    priv->wantedVcpus = 0;
    priv->maxDowntimeMs = 0;
    priv->maxBandwidthMib = 0;
    priv->stream = KUMO_STREAM_NONE;
    priv->pauseReason = VIR_DOMAIN_PAUSED_UNKNOWN;
    virDomainObjSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_STARTING_UP);
    if (g_atomic_int_add(&driver->nactive, 1) == 0 && driver->inhibit)
        driver->inhibit(true, driver->inhibitOpaque);
    return 0;
}

/* Launches the process, or undoes all of it. */
static int kumoProcessTry(virDomainObj *vm, bool paused, const kumoMonitorReceive *incoming,
                          const char *audit)
{
    virErrorPtr saved = NULL;

    if (kumoProcessBegin(vm) < 0)
        return -1;
    if (kumoProcessLaunch(vm, paused, incoming) < 0) {
        kumoProcessExplainError(vm);
        virErrorPreserveLast(&saved);
        virDomainAuditStart(vm, audit, false);
        if (virDomainObjIsActive(vm))
            kumoProcessStop(vm, VIR_DOMAIN_SHUTOFF_FAILED);
        virErrorRestore(&saved);
        return -1;
    }
    virDomainAuditStart(vm, audit, true);
    return 0;
}

static void kumoProcessBind(virConnectPtr conn, virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    virCloseCallbacksDomainAdd(vm, conn, kumoProcessAutoDestroy);
    priv->autodestroy = true;
}

int kumoProcessStart(virConnectPtr conn, virDomainObj *vm, virDomainRunningReason reason,
                     virDomainEventStartedDetailType detail, unsigned int flags)
{
    bool paused = flags & KUMO_START_PAUSED;

    if (kumoProcessTry(vm, paused, NULL, "booted") < 0)
        return -1;
    if (conn && (flags & KUMO_START_AUTODESTROY))
        kumoProcessBind(conn, vm);

    kumoDomainSetState(vm, paused ? VIR_DOMAIN_PAUSED : VIR_DOMAIN_RUNNING,
                       paused ? (int)VIR_DOMAIN_PAUSED_USER : (int)reason, VIR_DOMAIN_EVENT_STARTED,
                       detail);
    if (paused)
        kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_SUSPENDED, VIR_DOMAIN_EVENT_SUSPENDED_PAUSED);
    return 0;
}

int kumoProcessStartIncoming(virConnectPtr conn, virDomainObj *vm,
                             const kumoMonitorReceive *incoming, const char *audit,
                             unsigned int flags)
{
    if (kumoProcessTry(vm, true, incoming, audit) < 0)
        return -1;
    if (conn && (flags & KUMO_START_AUTODESTROY))
        kumoProcessBind(conn, vm);
    kumoDomainSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_MIGRATION, -1, 0);
    return 0;
}

/* Returns 0 if the process ended in time, or -1. */
static int kumoProcessSignal(int pidfd, int signum, gint64 timeoutUs)
{
    gint64 deadlineUs = g_get_monotonic_time() + timeoutUs;
    struct pollfd pfd = { .fd = pidfd, .events = POLLIN };

    if (syscall(SYS_pidfd_send_signal, pidfd, signum, NULL, 0) < 0 && errno == ESRCH)
        return 0;
    for (;;) {
        gint64 left = deadlineUs - g_get_monotonic_time();
        int rc = poll(&pfd, 1, (int)(MAX(left, 0) / 1000));

        if (rc > 0)
            return 0;
        if (rc == 0 || errno != EINTR)
            return -1;
    }
}

int kumoProcessKill(virDomainObj *vm, bool force)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    VIR_AUTOCLOSE pidfd = -1;
    int rc;

    if (!kumoProcessIsAlive(vm))
        return 0;
    if (priv->pidfd < 0 || (pidfd = fcntl(priv->pidfd, F_DUPFD_CLOEXEC, 0)) < 0)
        return virProcessKillPainfully(vm->pid, force) < 0 ? -1 : 0;

    virObjectUnlock(vm);
    rc = kumoProcessSignal(pidfd, SIGTERM, KUMO_TERM_WAIT_US);
    if (rc < 0 && force)
        rc = kumoProcessSignal(pidfd, SIGKILL, KUMO_KILL_WAIT_US);
    virObjectLock(vm);

    if (rc < 0)
        virReportError(VIR_ERR_OPERATION_FAILED, _("process %lld of domain '%s' does not end"),
                       (long long)vm->pid, vm->def->name);
    return rc;
}

static const char *kumoProcessAuditReason(virDomainShutoffReason reason)
{
    switch (reason) {
    case VIR_DOMAIN_SHUTOFF_DESTROYED:
        return "destroyed";
    case VIR_DOMAIN_SHUTOFF_MIGRATED:
        return "migrated";
    case VIR_DOMAIN_SHUTOFF_SAVED:
        return "saved";
    case VIR_DOMAIN_SHUTOFF_FAILED:
        return "failed";
    default:
        return "shutdown";
    }
}

void kumoProcessStop(virDomainObj *vm, virDomainShutoffReason reason)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoDriver *driver = priv->driver;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    g_autofree char *statusFile = NULL;
    bool beingDestroyed = priv->beingDestroyed;
    virErrorPtr saved = NULL;

    virErrorPreserveLast(&saved);
    priv->beingDestroyed = true;

    if (kumoProcessKill(vm, true) < 0)
        VIR_WARN("domain %s: process %lld does not end", vm->def->name, (long long)vm->pid);

    kumoProcessForget(vm);
    kumoProcessCloseLog(vm, reason);
    virCloseCallbacksDomainRemove(vm, NULL, kumoProcessAutoDestroy);
    virChrdevFree(priv->chrdevs);
    priv->chrdevs = virChrdevAlloc();

    kumoCgroupRemove(vm);
    /* Before that the names in the definition may be those of others' devices. */
    if (!priv->unclaimed)
        kumoInterfacesRelease(driver, vm->def);
    priv->unclaimed = false;
    kumoPrepareUndo(vm);
    statusFile = virDomainConfigFile(cfg->stateDir, vm->def->name);
    if (unlink(statusFile) < 0 && errno != ENOENT)
        VIR_WARN("cannot remove %s: %s", statusFile, g_strerror(errno));
    virDomainAuditStop(vm, kumoProcessAuditReason(reason));

    vm->taint = 0;
    vm->pid = 0;
    vm->def->id = -1;
    priv->startTime = 0;
    priv->bootPending = false;
    priv->rebootPending = false;
    priv->beingDestroyed = beingDestroyed;
    priv->migratedAway = false;
    priv->autodestroy = false;
    priv->stream = KUMO_STREAM_NONE;
    g_clear_pointer(&priv->persistentXml, g_free);
    if (priv->migrationPort) {
        virPortAllocatorRelease(priv->migrationPort);
        priv->migrationPort = 0;
    }
    virDomainObjSetState(vm, VIR_DOMAIN_SHUTOFF, reason);
    /* Who waits for its stream finds that it has ended. */
    virDomainObjBroadcast(vm);
    virDomainObjRemoveTransientDef(vm);
    if (g_atomic_int_dec_and_test(&driver->nactive) && driver->inhibit)
        driver->inhibit(false, driver->inhibitOpaque);

    virErrorRestore(&saved);
}

void kumoProcessAutoDestroy(virDomainObj *vm, virConnectPtr conn G_GNUC_UNUSED)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    priv->beingDestroyed = true;
    kumoProcessKill(vm, true);
    if (virDomainObjBeginJob(vm, VIR_JOB_DESTROY) < 0)
        return;
    if (virDomainObjIsActive(vm)) {
        kumoProcessStop(vm, VIR_DOMAIN_SHUTOFF_DESTROYED);
        kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_DESTROYED);
    }
    virDomainObjEndJob(vm);
    kumoDomainRemoveInactive(priv->driver, vm);
}
