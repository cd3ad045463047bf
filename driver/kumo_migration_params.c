/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a client asks of a migration, and what of it is refused. */
#include "driver/kumo_migration.h"

#include "virstring.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* As kumo.conf has them; the VMM's bandwidth is in bytes. */
#define KUMO_MAX_CONNECTIONS 128

void kumoMigrationParamsClear(kumoMigrationParams *params)
{
    g_clear_pointer(&params->compression, g_free);
    params->ncompression = 0;
}

int kumoMigrationCheckFlags(unsigned int flags)
{
    static const struct {
        unsigned int flag;
        const char *what;
    } refused[] = {
        { VIR_MIGRATE_TUNNELLED, N_("tunnelled migration") },
        { VIR_MIGRATE_NON_SHARED_DISK, N_("copying disks (--copy-storage-all)") },
        { VIR_MIGRATE_NON_SHARED_INC, N_("copying disks (--copy-storage-inc)") },
        { VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES,
          N_("copying disks (--copy-storage-synchronous-writes)") },
        { VIR_MIGRATE_RDMA_PIN_ALL, N_("migration over RDMA") },
        { VIR_MIGRATE_ZEROCOPY, N_("zero-copy migration") },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        if (flags & refused[i].flag) {
            virReportError(VIR_ERR_ARGUMENT_UNSUPPORTED, _("%s is not supported"),
                           _(refused[i].what));
            return -1;
        }
    }
    if ((flags & VIR_MIGRATE_POSTCOPY_RESUME) && !(flags & VIR_MIGRATE_POSTCOPY)) {
        virReportError(VIR_ERR_ARGUMENT_UNSUPPORTED, "%s",
                       _("resuming failed post-copy migration requires post-copy to be enabled"));
        return -1;
    }
    if ((flags & VIR_MIGRATE_OFFLINE) && !(flags & VIR_MIGRATE_PERSIST_DEST)) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("offline migration must be specified with the persistent flag set"));
        return -1;
    }
    return 0;
}

int kumoMigrationCheckParams(const kumoMigrationParams *params, unsigned int flags)
{
    const struct {
        bool given;
        unsigned int flag;
        const char *name;
        const char *what;
    } needs[] = {
        { params->postcopyMib != 0, VIR_MIGRATE_POSTCOPY, VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY,
          "VIR_MIGRATE_POSTCOPY" },
        { params->connections != 0, VIR_MIGRATE_PARALLEL, VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS,
          "VIR_MIGRATE_PARALLEL" },
        { params->convergeInitial != 0, VIR_MIGRATE_AUTO_CONVERGE,
          VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL, "VIR_MIGRATE_AUTO_CONVERGE" },
        { params->convergeIncrement != 0, VIR_MIGRATE_AUTO_CONVERGE,
          VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT, "VIR_MIGRATE_AUTO_CONVERGE" },
        { params->tlsDestination != NULL, VIR_MIGRATE_TLS, VIR_MIGRATE_PARAM_TLS_DESTINATION,
          "VIR_MIGRATE_TLS" },
        { params->ncompression != 0, VIR_MIGRATE_COMPRESSED, VIR_MIGRATE_PARAM_COMPRESSION,
          "VIR_MIGRATE_COMPRESSED" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(needs); i++) {
        if (needs[i].given && !(flags & needs[i].flag)) {
            virReportError(VIR_ERR_INVALID_ARG, _("the parameter '%s' needs the flag %s"),
                           needs[i].name, needs[i].what);
            return -1;
        }
    }
    if (flags & VIR_MIGRATE_TLS && params->uri && STRPREFIX(params->uri, "unix:")) {
        virReportError(
            VIR_ERR_ARGUMENT_UNSUPPORTED,
            _("TLS is not supported with the migration URI %s, only with tcp://HOST:PORT"),
            params->uri);
        return -1;
    }
    for (size_t i = 0; i < params->ncompression; i++) {
        if (STRNEQ(params->compression[i], "zstd")) {
            virReportError(VIR_ERR_ARGUMENT_UNSUPPORTED,
                           _("the compression method '%s' is not supported, zstd is"),
                           params->compression[i]);
            return -1;
        }
    }
    return 0;
}

static int kumoMigrationCheckNumber(int value, int min, int max, const char *name)
{
    if (value >= min && value <= max)
        return 0;
    virReportError(VIR_ERR_INVALID_ARG, _("%s %d is not between %d and %d"), name, value, min, max);
    return -1;
}

static int kumoMigrationReadNumber(virTypedParameterPtr params, int nparams, const char *name,
                                   int min, int max, int *ret)
{
    int rc = virTypedParamsGetInt(params, nparams, name, ret);

    if (rc <= 0)
        return rc;
    return kumoMigrationCheckNumber(*ret, min, max, name);
}

int kumoMigrationParamsRead(virTypedParameterPtr params, int nparams, kumoMigrationParams *ret)
{
    const struct {
        const char *name;
        const char **value;
    } strings[] = {
        { VIR_MIGRATE_PARAM_URI, &ret->uri },
        { VIR_MIGRATE_PARAM_DEST_NAME, &ret->destName },
        { VIR_MIGRATE_PARAM_DEST_XML, &ret->destXml },
        { VIR_MIGRATE_PARAM_PERSIST_XML, &ret->persistXml },
        { VIR_MIGRATE_PARAM_LISTEN_ADDRESS, &ret->listenAddress },
        { VIR_MIGRATE_PARAM_TLS_DESTINATION, &ret->tlsDestination },
    };
    int n;

    if (virTypedParamsValidate(
            params, nparams, VIR_MIGRATE_PARAM_URI, VIR_TYPED_PARAM_STRING,
            VIR_MIGRATE_PARAM_DEST_NAME, VIR_TYPED_PARAM_STRING, VIR_MIGRATE_PARAM_DEST_XML,
            VIR_TYPED_PARAM_STRING, VIR_MIGRATE_PARAM_PERSIST_XML, VIR_TYPED_PARAM_STRING,
            VIR_MIGRATE_PARAM_BANDWIDTH, VIR_TYPED_PARAM_ULLONG,
            VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY, VIR_TYPED_PARAM_ULLONG,
            VIR_MIGRATE_PARAM_LISTEN_ADDRESS, VIR_TYPED_PARAM_STRING,
            VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, VIR_TYPED_PARAM_INT,
            VIR_MIGRATE_PARAM_TLS_DESTINATION, VIR_TYPED_PARAM_STRING,
            VIR_MIGRATE_PARAM_COMPRESSION, VIR_TYPED_PARAM_STRING | VIR_TYPED_PARAM_MULTIPLE,
            VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL, VIR_TYPED_PARAM_INT,
            VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT, VIR_TYPED_PARAM_INT, NULL) < 0)
        return -1;

    for (size_t i = 0; i < G_N_ELEMENTS(strings); i++) {
        if (virTypedParamsGetString(params, nparams, strings[i].name, strings[i].value) < 0)
            return -1;
    }
    if (virTypedParamsGetULLong(params, nparams, VIR_MIGRATE_PARAM_BANDWIDTH, &ret->bandwidthMib) <
            0 ||
        virTypedParamsGetULLong(params, nparams, VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY,
                                &ret->postcopyMib) < 0 ||
        kumoMigrationReadNumber(params, nparams, VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, 1,
                                KUMO_MAX_CONNECTIONS, &ret->connections) < 0 ||
        kumoMigrationReadNumber(params, nparams, VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL, 1, 99,
                                &ret->convergeInitial) < 0 ||
        kumoMigrationReadNumber(params, nparams, VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT, 1, 99,
                                &ret->convergeIncrement) < 0 ||
        (n = virTypedParamsGetStringList(params, nparams, VIR_MIGRATE_PARAM_COMPRESSION,
                                         &ret->compression)) < 0)
        return -1;
    ret->ncompression = (size_t)n;
    if (MAX(ret->bandwidthMib, ret->postcopyMib) > KUMO_MIGRATION_MAX_MIB) {
        virReportError(VIR_ERR_OVERFLOW, _("bandwidth must be less than %llu"),
                       (unsigned long long)KUMO_MIGRATION_MAX_MIB + 1);
        return -1;
    }
    return 0;
}

char *kumoMigrationSocketUrl(const virURI *uri, const char *text)
{
    if (uri->path && uri->path[0] == '/' && !uri->server && !uri->query && !uri->fragment)
        return g_strdup_printf("unix:%s", uri->path);
    virReportError(VIR_ERR_INVALID_ARG, _("the migration URI '%s' is not of the form unix:///PATH"),
                   text);
    return NULL;
}
