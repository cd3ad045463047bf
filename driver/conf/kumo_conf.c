/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/conf/kumo_conf.h"

#include <unistd.h>

#include "domain_driver.h"
#include "kumo-build.h"
#include "viralloc.h"
#include "vircgroup.h"
#include "virconf.h"
#include "virfile.h"
#include "virstring.h"
#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_CONF

VIR_LOG_INIT("kumo.kumo_conf");

/* Where the VMM's user comes from when kumo.conf does not say: the first that exists. */
static const char *const kumoDefaultUsers[] = { "kumo", "libvirt-qemu", "nobody" };
static const char *const kumoDefaultGroups[] = { "kumo", "kvm", "nogroup" };

/* Firmware that boots a disk, as distributions and Cloud Hypervisor's own documentation place it.
 */
static const char *const kumoDefaultFirmware[] = {
    "/usr/share/cloud-hypervisor/CLOUDHV.fd",
    "/usr/share/cloud-hypervisor/hypervisor-fw",
    "/usr/share/kumo/hypervisor-fw",
};

/* Those that other drivers use, too. */
#define KUMO_MIGRATION_PORT_MIN 49152
#define KUMO_MIGRATION_PORT_MAX 49215

VIR_ENUM_IMPL(kumoSaveFormat, KUMO_SAVE_FORMAT_LAST, "raw", "gzip", "bzip2", "xz", "lzop",
              "zstd", );

static virClass *kumoDriverConfigClass;
static void kumoDriverConfigDispose(void *obj);

static int kumoDriverConfigOnceInit(void)
{
    if (!VIR_CLASS_NEW(kumoDriverConfig, virClassForObject()))
        return -1;
    return 0;
}

VIR_ONCE_GLOBAL_INIT(kumoDriverConfig);

static void kumoDriverConfigDispose(void *obj)
{
    kumoDriverConfig *cfg = obj;

    g_free(cfg->uri);
    g_free(cfg->configDir);
    g_free(cfg->autostartDir);
    g_free(cfg->stateDir);
    g_free(cfg->libDir);
    g_free(cfg->logDir);
    g_free(cfg->cacheDir);
    g_free(cfg->binary);
    g_free(cfg->firmware);
    g_free(cfg->seccomp);
    g_free(cfg->saveDir);
    g_free(cfg->saveImageFormat);
    g_free(cfg->memoryBackingDir);
    g_free(cfg->migrationHost);
    g_free(cfg->migrationAddress);
    g_free(cfg->migrationTlsDir);
    g_strfreev(cfg->securityDrivers);
}

static void kumoDriverConfigSetUser(kumoDriverConfig *cfg)
{
    for (size_t i = 0; i < G_N_ELEMENTS(kumoDefaultUsers); i++) {
        if (virDoesUserExist(kumoDefaultUsers[i]) &&
            virGetUserID(kumoDefaultUsers[i], &cfg->user) == 0)
            break;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(kumoDefaultGroups); i++) {
        if (virDoesGroupExist(kumoDefaultGroups[i]) &&
            virGetGroupID(kumoDefaultGroups[i], &cfg->group) == 0)
            break;
    }
}

kumoDriverConfig *kumoDriverConfigNew(bool privileged, const char *root)
{
    g_autoptr(kumoDriverConfig) cfg = NULL;

    if (kumoDriverConfigInitialize() < 0)
        return NULL;
    if (!(cfg = virObjectNew(kumoDriverConfigClass)))
        return NULL;

    if (root) {
        cfg->uri = g_strdup_printf("kumo:///embed?root=%s", root);
        cfg->configDir = g_strdup_printf("%s/etc/kumo", root);
        cfg->stateDir = g_strdup_printf("%s/run/kumo", root);
        cfg->libDir = g_strdup_printf("%s/lib/kumo", root);
        cfg->logDir = g_strdup_printf("%s/log/kumo", root);
        cfg->cacheDir = g_strdup_printf("%s/cache/kumo", root);
    } else if (privileged) {
        cfg->uri = g_strdup("kumo:///system");
        cfg->configDir = g_strdup("/etc/libvirt/kumo");
        cfg->stateDir = g_strdup("/run/libvirt/kumo");
        cfg->libDir = g_strdup("/var/lib/libvirt/kumo");
        cfg->logDir = g_strdup("/var/log/libvirt/kumo");
        cfg->cacheDir = g_strdup("/var/cache/libvirt/kumo");
    } else {
        g_autofree char *config = virGetUserConfigDirectory();
        g_autofree char *cache = virGetUserCacheDirectory();
        g_autofree char *runtime = virGetUserRuntimeDirectory();

        cfg->uri = g_strdup("kumo:///session");
        cfg->configDir = g_strdup_printf("%s/kumo", config);
        cfg->stateDir = g_strdup_printf("%s/kumo/run", runtime);
        cfg->libDir = g_strdup_printf("%s/kumo/lib", config);
        cfg->logDir = g_strdup_printf("%s/kumo/log", cache);
        cfg->cacheDir = g_strdup_printf("%s/kumo/cache", cache);
    }
    cfg->autostartDir = g_strdup_printf("%s/autostart", cfg->configDir);
    cfg->saveDir = g_strdup_printf("%s/save", cfg->libDir);
    cfg->memoryBackingDir = g_strdup_printf("%s/ram", cfg->libDir);
    cfg->saveImageFormat = g_strdup(kumoSaveFormatTypeToString(KUMO_SAVE_FORMAT_RAW));
    cfg->migrationPortMin = KUMO_MIGRATION_PORT_MIN;
    cfg->migrationPortMax = KUMO_MIGRATION_PORT_MAX;
    cfg->migrationTlsDir = g_strdup_printf("%s/etc/pki/libvirt-kumo", root ? root : "");

    cfg->migrationConnectMs = 30 * 1000;
    cfg->keepaliveIntervalS = 5;
    cfg->keepaliveCount = 5;

    cfg->binary = g_strdup(KUMO_DEFAULT_BINARY);
    cfg->monitorTimeoutMs = 30 * 1000;
    cfg->cgroupControllers = -1;
    for (size_t i = 0; i < G_N_ELEMENTS(kumoDefaultFirmware) && !cfg->firmware; i++) {
        if (virFileExists(kumoDefaultFirmware[i]))
            cfg->firmware = g_strdup(kumoDefaultFirmware[i]);
    }

    /* An embedded driver works with its client's identity and the client's own files. */
    cfg->user = geteuid();
    cfg->group = getegid();
    if (privileged && !root) {
        kumoDriverConfigSetUser(cfg);
        cfg->dynamicOwnership = true;
    }

    return g_steal_pointer(&cfg);
}

char *kumoDriverConfigMemoryDir(const kumoDriverConfig *cfg, const char *root,
                                const virDomainDef *def)
{
    g_autofree char *name = virDomainDefGetShortName(def);
    g_autofree char *hash = NULL;

    if (!name)
        return NULL;
    /* Other drivers may have domains of the same name and number there. */
    if (!root || STRPREFIX(cfg->memoryBackingDir, root))
        return g_strdup_printf("%s/%s", cfg->memoryBackingDir, name);
    hash = virDomainDriverGenerateRootHash("kumo", root);
    return g_strdup_printf("%s/%s-%s", cfg->memoryBackingDir, hash, name);
}

char *kumoDriverConfigPath(bool privileged, const char *root)
{
    g_autofree char *config = NULL;

    if (root)
        return g_strdup_printf("%s/etc/kumo.conf", root);
    if (privileged)
        return g_strdup("/etc/libvirt/kumo.conf");

    config = virGetUserConfigDirectory();
    return g_strdup_printf("%s/kumo.conf", config);
}

/* What of the ranges and names of save and migration is wrong. */
static int kumoDriverConfigCheckMigration(const kumoDriverConfig *cfg, const char *path)
{
    if (kumoSaveFormatTypeFromString(cfg->saveImageFormat) < 0) {
        virReportError(VIR_ERR_CONF_SYNTAX, _("%s: unknown save_image_format '%s'"), path,
                       cfg->saveImageFormat);
        return -1;
    }
    if (cfg->migrationPortMin < 1024 || cfg->migrationPortMax > 65535 ||
        cfg->migrationPortMin > cfg->migrationPortMax) {
        virReportError(VIR_ERR_CONF_SYNTAX,
                       _("%s: migration_port_min %u and migration_port_max %u are no range between "
                         "1024 and 65535"),
                       path, cfg->migrationPortMin, cfg->migrationPortMax);
        return -1;
    }
    /* No name at all would be no TLS to the VMM. */
    if (!g_path_is_absolute(cfg->migrationTlsDir)) {
        virReportError(VIR_ERR_CONF_SYNTAX,
                       _("%s: migrate_tls_x509_cert_dir '%s' is not an absolute path"), path,
                       cfg->migrationTlsDir);
        return -1;
    }
    return 0;
}

/* How long another daemon may say nothing. */
static int kumoDriverConfigLoadPatience(kumoDriverConfig *cfg, virConf *conf, const char *path)
{
    unsigned int seconds = cfg->migrationConnectMs / 1000;

    if (virConfGetValueUInt(conf, "migration_connect_timeout", &seconds) < 0 ||
        virConfGetValueInt(conf, "keepalive_interval", &cfg->keepaliveIntervalS) < 0 ||
        virConfGetValueUInt(conf, "keepalive_count", &cfg->keepaliveCount) < 0)
        return -1;
    if (seconds < 1 || seconds > 3600) {
        virReportError(VIR_ERR_CONF_SYNTAX,
                       _("%s: migration_connect_timeout %u is not between 1 and 3600 seconds"),
                       path, seconds);
        return -1;
    }
    cfg->migrationConnectMs = seconds * 1000;
    return 0;
}

static int kumoDriverConfigLoadMigration(kumoDriverConfig *cfg, virConf *conf, const char *path)
{
    if (virConfGetValueString(conf, "save_image_format", &cfg->saveImageFormat) < 0 ||
        virConfGetValueString(conf, "migration_host", &cfg->migrationHost) < 0 ||
        virConfGetValueString(conf, "migration_address", &cfg->migrationAddress) < 0 ||
        virConfGetValueUInt(conf, "migration_port_min", &cfg->migrationPortMin) < 0 ||
        virConfGetValueUInt(conf, "migration_port_max", &cfg->migrationPortMax) < 0 ||
        virConfGetValueString(conf, "migrate_tls_x509_cert_dir", &cfg->migrationTlsDir) < 0 ||
        kumoDriverConfigLoadPatience(cfg, conf, path) < 0)
        return -1;
    return kumoDriverConfigCheckMigration(cfg, path);
}

static int kumoDriverConfigCheckKey(const char *name, virConfValue *value G_GNUC_UNUSED,
                                    void *opaque)
{
    static const char *const known[] = {
        "binary",
        "firmware",
        "user",
        "group",
        "dynamic_ownership",
        "security_driver",
        "log_level",
        "seccomp",
        "timeout",
        "cgroup_controllers",
        "memory_backing_dir",
        "save_image_format",
        "migration_host",
        "migration_address",
        "migration_port_min",
        "migration_port_max",
        "migrate_tls_x509_cert_dir",
        "migration_connect_timeout",
        "keepalive_interval",
        "keepalive_count",
    };
    const char **unknown = opaque;

    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        if (STREQ(known[i], name))
            return 0;
    }
    *unknown = name;
    return 0;
}

static int kumoDriverConfigLoadIdentity(kumoDriverConfig *cfg, virConf *conf, bool privileged)
{
    g_autofree char *user = NULL;
    g_autofree char *group = NULL;

    if (virConfGetValueString(conf, "user", &user) < 0 ||
        virConfGetValueString(conf, "group", &group) < 0)
        return -1;
    if (!privileged && (user || group)) {
        virReportError(VIR_ERR_CONF_SYNTAX, "%s",
                       _("user and group can be set for the system driver only"));
        return -1;
    }
    if (user && virGetUserID(user, &cfg->user) < 0)
        return -1;
    if (group && virGetGroupID(group, &cfg->group) < 0)
        return -1;
    return virConfGetValueBool(conf, "dynamic_ownership", &cfg->dynamicOwnership) < 0 ? -1 : 0;
}

static int kumoDriverConfigLoadCgroups(kumoDriverConfig *cfg, virConf *conf, const char *path)
{
    g_auto(GStrv) names = NULL;
    int rc = virConfGetValueStringList(conf, "cgroup_controllers", false, &names);

    if (rc <= 0)
        return rc;
    cfg->cgroupControllers = 0;
    for (size_t i = 0; names[i]; i++) {
        int controller = virCgroupControllerTypeFromString(names[i]);

        if (controller < 0) {
            virReportError(VIR_ERR_CONF_SYNTAX,
                           _("%s: cgroup_controllers: '%s' is no controller of control groups"),
                           path, names[i]);
            return -1;
        }
        cfg->cgroupControllers |= 1 << controller;
    }
    return 0;
}

int kumoDriverConfigLoadFile(kumoDriverConfig *cfg, const char *path, bool privileged)
{
    g_autoptr(virConf) conf = NULL;
    const char *unknown = NULL;
    unsigned int timeout = cfg->monitorTimeoutMs / 1000;

    if (access(path, R_OK) < 0) {
        if (errno == ENOENT)
            return 0;
        virReportSystemError(errno, _("cannot read %s"), path);
        return -1;
    }
    if (!(conf = virConfReadFile(path, 0)))
        return -1;

    virConfWalk(conf, kumoDriverConfigCheckKey, &unknown);
    if (unknown) {
        virReportError(VIR_ERR_CONF_SYNTAX, _("%s: unknown setting '%s'"), path, unknown);
        return -1;
    }

    if (virConfGetValueString(conf, "binary", &cfg->binary) < 0 ||
        virConfGetValueString(conf, "firmware", &cfg->firmware) < 0 ||
        virConfGetValueString(conf, "seccomp", &cfg->seccomp) < 0 ||
        virConfGetValueString(conf, "memory_backing_dir", &cfg->memoryBackingDir) < 0 ||
        virConfGetValueStringList(conf, "security_driver", true, &cfg->securityDrivers) < 0 ||
        virConfGetValueUInt(conf, "log_level", &cfg->logLevel) < 0 ||
        virConfGetValueUInt(conf, "timeout", &timeout) < 0 ||
        kumoDriverConfigLoadIdentity(cfg, conf, privileged) < 0 ||
        kumoDriverConfigLoadCgroups(cfg, conf, path) < 0 ||
        kumoDriverConfigLoadMigration(cfg, conf, path) < 0)
        return -1;

    if (cfg->logLevel > 3) {
        virReportError(VIR_ERR_CONF_SYNTAX, _("%s: log_level %u is not between 0 and 3"), path,
                       cfg->logLevel);
        return -1;
    }
    if (timeout < 1 || timeout > 3600) {
        virReportError(VIR_ERR_CONF_SYNTAX, _("%s: timeout %u is not between 1 and 3600 seconds"),
                       path, timeout);
        return -1;
    }
    cfg->monitorTimeoutMs = timeout * 1000;
    if (!g_path_is_absolute(cfg->memoryBackingDir)) {
        virReportError(VIR_ERR_CONF_SYNTAX,
                       _("%s: memory_backing_dir '%s' is not an absolute path"), path,
                       cfg->memoryBackingDir);
        return -1;
    }
    if (cfg->seccomp && STRNEQ(cfg->seccomp, "true") && STRNEQ(cfg->seccomp, "false") &&
        STRNEQ(cfg->seccomp, "log") && STRNEQ(cfg->seccomp, "errno")) {
        virReportError(VIR_ERR_CONF_SYNTAX,
                       _("%s: seccomp '%s' is none of true, false, log, errno"), path,
                       cfg->seccomp);
        return -1;
    }
    return 0;
}

kumoDriverConfig *kumoDriverGetConfig(kumoDriver *driver)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&driver->lock);

    return virObjectRef(driver->config);
}
