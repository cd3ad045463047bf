/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The text console as a stream. */
#include "driver/kumo_driver.h"

#include "viraccessapicheck.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static virDomainChrDef *kumoFindConsole(const virDomainDef *def, const char *name)
{
    for (size_t i = 0; i < def->nconsoles; i++) {
        virDomainChrDef *console = def->consoles[i];

        if (name && STRNEQ_NULLABLE(console->info.alias, name))
            continue;
        /* Such a console may be only the shadow of the serial port. */
        if (console->targetType == VIR_DOMAIN_CHR_CONSOLE_TARGET_TYPE_SERIAL && def->nserials > 0)
            return def->serials[0];
        return console;
    }
    for (size_t i = 0; i < def->nserials; i++) {
        if (!name || STREQ_NULLABLE(def->serials[i]->info.alias, name))
            return def->serials[i];
    }
    if (name)
        virReportError(VIR_ERR_INVALID_ARG, _("there is no character device '%s'"), name);
    else
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("the domain has no console"));
    return NULL;
}

int kumoDomainOpenConsole(virDomainPtr dom, const char *name, virStreamPtr stream,
                          unsigned int flags)
{
    kumoDomainObjPrivate *priv;
    virDomainChrDef *chr;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_CONSOLE_SAFE | VIR_DOMAIN_CONSOLE_FORCE, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainOpenConsoleEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjCheckActive(vm) < 0)
        goto cleanup;
    if (!(chr = kumoFindConsole(vm->def, name)))
        goto cleanup;
    if (chr->source->type != VIR_DOMAIN_CHR_TYPE_PTY &&
        chr->source->type != VIR_DOMAIN_CHR_TYPE_UNIX) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("character device '%s' is of type '%s', not a pty or UNIX socket"),
                       chr->info.alias, virDomainChrTypeToString(chr->source->type));
        goto cleanup;
    }

    if (chr->source->type == VIR_DOMAIN_CHR_TYPE_UNIX && !chr->source->data.nix.listen) {
        virReportError(VIR_ERR_OPERATION_INVALID,
                       _("character device '%s' connects to '%s' itself, which serves others than "
                         "the domain's console"),
                       chr->info.alias, chr->source->data.nix.path);
        goto cleanup;
    }

    priv = vm->privateData;
    ret = virChrdevOpen(priv->chrdevs, chr->source, stream, flags & VIR_DOMAIN_CONSOLE_FORCE);
    if (ret == 1) {
        virReportError(VIR_ERR_OPERATION_FAILED, "%s",
                       _("somebody else uses the console of this domain"));
        ret = -1;
    }

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}
