/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "driver/conf/kumo_capabilities.h"
#include "driver/conf/kumo_memory.h"
#include "driver/kumo_events.h"
#include "driver/kumo_log.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_prepare.h"
#include "virfile.h"
#include "virnuma.h"
#include "virpidfile.h"
#include "virprocess.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_process");

#define KUMO_END_WAIT_MS 200

/* How long a process may take to end in order, and how long the kernel may take to end it. */
#define KUMO_TERM_WAIT_US (5 * G_USEC_PER_SEC)
#define KUMO_KILL_WAIT_US (30 * G_USEC_PER_SEC)

static char *kumoProcessApiSocket(const kumoDomainObjPrivate *priv)
{
    return g_strdup_printf("%s/api.sock", priv->dir);
}

static char *kumoProcessEventFifo(const kumoDomainObjPrivate *priv)
{
    return g_strdup_printf("%s/events", priv->dir);
}

static char *kumoProcessPidFile(const kumoDomainObjPrivate *priv)
{
    return g_strdup_printf("%s/pid", priv->dir);
}

/* In the process that becomes the VMM: it passes the policy on to its threads. */
static int kumoProcessSetMemoryPolicy(void *opaque)
{
    const virDomainObj *vm = opaque;
    const kumoDomainObjPrivate *priv = vm->privateData;
    virDomainNumatuneMemMode mode;

    if (virDomainNumatuneGetMode(vm->def->numa, -1, &mode) < 0 ||
        kumoMemoryNodesByGroup(vm->def, priv->driver->privileged))
        return 0;
    return virNumaSetupMemoryPolicy(mode, virDomainNumatuneGetNodeset(vm->def->numa, NULL, -1));
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

void kumoProcessExplainError(virDomainObj *vm)
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
    if (kumoProcessIsAlive(vm) || !(tail = kumoLogTail(vm)) || tail[0] == '\0')
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
        !(priv->events = kumoEventsNew(vm, fifo, priv->pidfd, priv->driver->eventHandlers)))
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

virCommand *kumoProcessSpawn(virDomainObj *vm, const kumoDriverConfig *cfg)
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

    if ((logFd = kumoLogOpen(vm)) < 0 || (apiFd = kumoPrepareSocket(sock)) < 0 ||
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
    virCommandSetPreExecHook(cmd, kumoProcessSetMemoryPolicy, vm);
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
