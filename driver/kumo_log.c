/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virfile.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_log");

/* How much of a VMM's last words goes into an error message. */
#define KUMO_LOG_TAIL 1024

void kumoLogFind(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);

    g_free(priv->logPath);
    priv->logPath = g_strdup_printf("%s/%s.log", cfg->logDir, vm->def->name);
    priv->logStart = 0;
}

int kumoLogOpen(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autofree char *now = virTimeStringNow();
    VIR_AUTOCLOSE fd = -1;

    kumoLogFind(vm);
    if ((fd = open(priv->logPath, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0) {
        virReportSystemError(errno, _("cannot open the log file %s"), priv->logPath);
        return -1;
    }
    dprintf(fd, "%s: starting domain %s\n", now ? now : "", vm->def->name);
    priv->logStart = lseek(fd, 0, SEEK_END);
    return g_steal_fd(&fd);
}

void kumoLogClose(virDomainObj *vm, virDomainShutoffReason reason)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autofree char *now = virTimeStringNow();
    VIR_AUTOCLOSE fd = -1;

    if (priv->logPath && (fd = open(priv->logPath, O_WRONLY | O_APPEND | O_CLOEXEC)) >= 0)
        dprintf(fd, "%s: domain %s is off, reason: %s\n", now ? now : "", vm->def->name,
                virDomainShutoffReasonTypeToString(reason));
}

char *kumoLogTail(virDomainObj *vm)
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

/* "NAME.log", or what a rotation made of it: "NAME.log.1". */
static bool kumoLogIsOf(const char *file, const char *domain)
{
    return g_str_has_prefix(file, domain) && STRPREFIX(file + strlen(domain), ".log") &&
           strspn(file + strlen(domain) + strlen(".log"), ".0123456789") ==
               strlen(file + strlen(domain) + strlen(".log"));
}

void kumoLogRemove(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    g_autoptr(GDir) dir = g_dir_open(cfg->logDir, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(cfg->logDir, name, NULL);

        if (kumoLogIsOf(name, vm->def->name) && unlink(path) < 0)
            VIR_WARN("domain %s: %s could not be removed: %s", vm->def->name, path,
                     g_strerror(errno));
    }
}
