/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_update.h"

#include "driver/conf/kumo_definition.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoUpdateBegin(kumoUpdate *update, virDomainObj *vm, unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virDomainDef *persistent;

    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        return -1;
    update->vm = vm;
    update->driver = priv->driver;
    if (virDomainObjGetDefs(vm, flags, &update->live, &persistent) < 0)
        return -1;
    if (!persistent)
        return 0;
    update->config = virDomainObjCopyPersistentDef(vm, priv->driver->xmlopt, NULL);
    return update->config ? 0 : -1;
}

int kumoUpdateSettle(kumoUpdate *update)
{
    if (!update->config)
        return 0;
    return kumoDefinitionSettle(update->driver, update->config, VIR_DOMAIN_DEF_PARSE_INACTIVE);
}

int kumoUpdateFinish(kumoUpdate *update)
{
    if (update->live)
        kumoDomainSaveStatus(update->vm);
    update->live = NULL;
    return update->config ? kumoDomainSaveDefinition(update->vm, &update->config) : 0;
}

void kumoUpdateClear(kumoUpdate *update)
{
    virErrorPtr saved = NULL;

    if (!update->vm)
        return;
    /* It has failed, but some of it may have been done before. */
    if (update->live) {
        virErrorPreserveLast(&saved);
        kumoDomainSaveStatus(update->vm);
        virErrorRestore(&saved);
    }
    g_clear_pointer(&update->config, virDomainDefFree);
    virDomainObjEndJob(update->vm);
    update->vm = NULL;
}
