/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Domains that are saved to a file and restored from it, by a name of the client's or managed. */
#include "driver/kumo_driver.h"

#include "driver/kumo_job.h"
#include "driver/kumo_run.h"
#include "driver/kumo_save.h"
#include "viraccessapicheck.h"
#include "virfile.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_driver_save");

static kumoSaveFormat kumoSaveConfiguredFormat(kumoDriver *driver)
{
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);

    return (kumoSaveFormat)kumoSaveFormatTypeFromString(cfg->saveImageFormat);
}

static int kumoSaveCheck(virDomainObj *vm)
{
    const kumoDomainObjPrivate *priv = vm->privateData;

    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (priv->bootPending) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("the guest has not been started yet, there is nothing to be saved"));
        return -1;
    }
    if (priv->autodestroy) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("the domain is marked for auto destroy"));
        return -1;
    }
    return 0;
}

/* --- save --- */

static int kumoDomainSaveTo(virDomainPtr dom, virDomainObj *vm, const char *path, const char *xml,
                            unsigned int flags)
{
    kumoDriver *driver = dom->conn->privateData;
    int ret = -1;

    if (kumoJobBegin(vm, VIR_ASYNC_JOB_SAVE, VIR_DOMAIN_JOB_OPERATION_SAVE, flags) < 0)
        return -1;
    if (kumoSaveCheck(vm) == 0)
        ret = kumoSave(vm, path, kumoSaveConfiguredFormat(driver), xml, flags);
    kumoJobEnd(vm);
    if (ret == 0)
        kumoDomainRemoveInactive(driver, vm);
    return ret;
}

int kumoDomainSaveFlags(virDomainPtr dom, const char *path, const char *dxml, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_SAVE_BYPASS_CACHE | VIR_DOMAIN_SAVE_RUNNING | VIR_DOMAIN_SAVE_PAUSED,
                  -1);
    VIR_EXCLUSIVE_FLAGS_RET(VIR_DOMAIN_SAVE_RUNNING, VIR_DOMAIN_SAVE_PAUSED, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSaveFlagsEnsureACL(dom->conn, vm->def) >= 0)
        ret = kumoDomainSaveTo(dom, vm, path, dxml, flags);
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainSave(virDomainPtr dom, const char *path)
{
    return kumoDomainSaveFlags(dom, path, NULL, 0);
}

/* The two strings that save and restore take as parameters. */
static int kumoSaveReadParams(virTypedParameterPtr params, int nparams, const char **ret_path,
                              const char **ret_xml)
{
    if (virTypedParamsValidate(params, nparams, VIR_DOMAIN_SAVE_PARAM_FILE, VIR_TYPED_PARAM_STRING,
                               VIR_DOMAIN_SAVE_PARAM_DXML, VIR_TYPED_PARAM_STRING, NULL) < 0 ||
        virTypedParamsGetString(params, nparams, VIR_DOMAIN_SAVE_PARAM_FILE, ret_path) < 0 ||
        virTypedParamsGetString(params, nparams, VIR_DOMAIN_SAVE_PARAM_DXML, ret_xml) < 0)
        return -1;
    return 0;
}

static int kumoDomainManagedSaveXml(virDomainPtr dom, const char *xml, unsigned int flags);

int kumoDomainSaveParams(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                         unsigned int flags)
{
    const char *path = NULL;
    const char *xml = NULL;

    if (kumoSaveReadParams(params, nparams, &path, &xml) < 0)
        return -1;
    if (!path)
        return kumoDomainManagedSaveXml(dom, xml, flags);
    return kumoDomainSaveFlags(dom, path, xml, flags);
}

/* --- restore --- */

static int kumoRestoreImage(virConnectPtr conn, const kumoSaveImage *image, kumoSaveFile *file,
                            virDomainDef **def, unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    unsigned int start = flags & VIR_DOMAIN_SAVE_PAUSED ? KUMO_START_PAUSED : 0;
    bool running = flags & VIR_DOMAIN_SAVE_RUNNING || (image->running && !start);
    virDomainObj *vm = virDomainObjListAdd(
        driver->domains, def, driver->xmlopt,
        VIR_DOMAIN_OBJ_LIST_ADD_LIVE | VIR_DOMAIN_OBJ_LIST_ADD_CHECK_LIVE, NULL);
    int ret = -1;

    if (!vm)
        return -1;
    if (kumoJobBegin(vm, VIR_ASYNC_JOB_START, VIR_DOMAIN_JOB_OPERATION_RESTORE, flags) == 0) {
        ret = kumoSaveResume(conn, vm, image, file, running, start);
        kumoJobEnd(vm);
    }
    if (ret < 0)
        kumoDomainRemoveInactive(driver, vm);
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainRestoreFlags(virConnectPtr conn, const char *path, const char *dxml,
                           unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(kumoSaveImage) image = NULL;
    g_autoptr(kumoSaveFile) file = NULL;
    g_autoptr(virDomainDef) def = NULL;

    /* VIR_DOMAIN_SAVE_RESET_NVRAM: there is no file of variables to be reset. */
    virCheckFlags(VIR_DOMAIN_SAVE_BYPASS_CACHE | VIR_DOMAIN_SAVE_RUNNING | VIR_DOMAIN_SAVE_PAUSED |
                      VIR_DOMAIN_SAVE_RESET_NVRAM,
                  -1);
    VIR_EXCLUSIVE_FLAGS_RET(VIR_DOMAIN_SAVE_RUNNING, VIR_DOMAIN_SAVE_PAUSED, -1);

    if (!(image = kumoSaveOpen(driver, path, flags, &file, NULL)) ||
        !(def = kumoSaveParse(driver, image)))
        return -1;
    if (virDomainRestoreFlagsEnsureACL(conn, def) < 0)
        return -1;
    if (dxml) {
        virDomainDef *changed = kumoSaveReplaceXml(driver, def, dxml);

        if (!changed)
            return -1;
        virDomainDefFree(def);
        def = changed;
    }
    return kumoRestoreImage(conn, image, file, &def, flags);
}

int kumoDomainRestore(virConnectPtr conn, const char *path)
{
    return kumoDomainRestoreFlags(conn, path, NULL, 0);
}

int kumoDomainRestoreParams(virConnectPtr conn, virTypedParameterPtr params, int nparams,
                            unsigned int flags)
{
    const char *path = NULL;
    const char *xml = NULL;

    if (kumoSaveReadParams(params, nparams, &path, &xml) < 0)
        return -1;
    if (!path) {
        virReportError(VIR_ERR_INVALID_ARG, _("the parameter '%s' is missing"),
                       VIR_DOMAIN_SAVE_PARAM_FILE);
        return -1;
    }
    return kumoDomainRestoreFlags(conn, path, xml, flags);
}

/* --- what is in an image --- */

char *kumoDomainSaveImageGetXMLDesc(virConnectPtr conn, const char *path, unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(kumoSaveImage) image = NULL;
    g_autoptr(kumoSaveFile) file = NULL;
    g_autoptr(virDomainDef) def = NULL;

    virCheckFlags(VIR_DOMAIN_SAVE_IMAGE_XML_SECURE, NULL);

    if (!(image = kumoSaveOpen(driver, path, 0, &file, NULL)) ||
        !(def = kumoSaveParse(driver, image)))
        return NULL;
    if (virDomainSaveImageGetXMLDescEnsureACL(conn, def) < 0)
        return NULL;
    return virDomainDefFormat(
        def, driver->xmlopt,
        flags & VIR_DOMAIN_SAVE_IMAGE_XML_SECURE ? VIR_DOMAIN_DEF_FORMAT_SECURE : 0);
}

int kumoDomainSaveImageDefineXML(virConnectPtr conn, const char *path, const char *dxml,
                                 unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(kumoSaveImage) image = NULL;
    g_autoptr(kumoSaveFile) file = NULL;
    g_autoptr(virDomainDef) def = NULL;

    virCheckFlags(VIR_DOMAIN_SAVE_RUNNING | VIR_DOMAIN_SAVE_PAUSED, -1);
    VIR_EXCLUSIVE_FLAGS_RET(VIR_DOMAIN_SAVE_RUNNING, VIR_DOMAIN_SAVE_PAUSED, -1);

    if (!(image = kumoSaveOpen(driver, path, 0, &file, NULL)) ||
        !(def = kumoSaveParse(driver, image)))
        return -1;
    if (virDomainSaveImageDefineXMLEnsureACL(conn, def) < 0)
        return -1;
    return kumoSaveEditXml(driver, path, image, dxml, flags);
}

/* --- managed save --- */

static int kumoManagedSaveTo(virDomainPtr dom, virDomainObj *vm, const char *xml,
                             unsigned int flags)
{
    kumoDriver *driver = dom->conn->privateData;
    g_autofree char *path = kumoManagedSavePath(driver, vm->def);

    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (!vm->persistent) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("cannot do managed save for transient domain"));
        return -1;
    }
    if (kumoDomainSaveTo(dom, vm, path, xml, flags) < 0) {
        vm->hasManagedSave = virFileExists(path);
        return -1;
    }
    vm->hasManagedSave = true;
    return 0;
}

static int kumoDomainManagedSaveXml(virDomainPtr dom, const char *xml, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_SAVE_BYPASS_CACHE | VIR_DOMAIN_SAVE_RUNNING | VIR_DOMAIN_SAVE_PAUSED,
                  -1);
    VIR_EXCLUSIVE_FLAGS_RET(VIR_DOMAIN_SAVE_RUNNING, VIR_DOMAIN_SAVE_PAUSED, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainManagedSaveEnsureACL(dom->conn, vm->def) >= 0)
        ret = kumoManagedSaveTo(dom, vm, xml, flags);
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainManagedSave(virDomainPtr dom, unsigned int flags)
{
    return kumoDomainManagedSaveXml(dom, NULL, flags);
}

int kumoDomainHasManagedSaveImage(virDomainPtr dom, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainHasManagedSaveImageEnsureACL(dom->conn, vm->def) >= 0)
        ret = vm->hasManagedSave;
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainManagedSaveRemove(virDomainPtr dom, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainManagedSaveRemoveEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    ret = kumoManagedSaveRemove(vm);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

/* Returns: (transfer full): the image of a domain that has one, or NULL with the error reported. */
static kumoSaveImage *kumoManagedSaveOpen(kumoDriver *driver, virDomainObj *vm, char **ret_path,
                                          kumoSaveFile **ret_file)
{
    *ret_path = kumoManagedSavePath(driver, vm->def);
    if (!virFileExists(*ret_path)) {
        virReportError(VIR_ERR_OPERATION_INVALID, _("domain '%s' has no managed save image"),
                       vm->def->name);
        return NULL;
    }
    return kumoSaveOpen(driver, *ret_path, 0, ret_file, NULL);
}

char *kumoDomainManagedSaveGetXMLDesc(virDomainPtr dom, unsigned int flags)
{
    kumoDriver *driver = dom->conn->privateData;
    g_autoptr(kumoSaveImage) image = NULL;
    g_autofree char *path = NULL;
    g_autoptr(kumoSaveFile) file = NULL;
    g_autoptr(virDomainDef) def = NULL;
    virDomainObj *vm;
    char *ret = NULL;

    virCheckFlags(VIR_DOMAIN_SAVE_IMAGE_XML_SECURE, NULL);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return NULL;
    if (virDomainManagedSaveGetXMLDescEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if ((image = kumoManagedSaveOpen(driver, vm, &path, &file)) &&
        (def = kumoSaveParse(driver, image)))
        ret = virDomainDefFormat(
            def, driver->xmlopt,
            flags & VIR_DOMAIN_SAVE_IMAGE_XML_SECURE ? VIR_DOMAIN_DEF_FORMAT_SECURE : 0);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainManagedSaveDefineXML(virDomainPtr dom, const char *dxml, unsigned int flags)
{
    kumoDriver *driver = dom->conn->privateData;
    g_autoptr(kumoSaveImage) image = NULL;
    g_autofree char *path = NULL;
    g_autoptr(kumoSaveFile) file = NULL;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_SAVE_RUNNING | VIR_DOMAIN_SAVE_PAUSED, -1);
    VIR_EXCLUSIVE_FLAGS_RET(VIR_DOMAIN_SAVE_RUNNING, VIR_DOMAIN_SAVE_PAUSED, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainManagedSaveDefineXMLEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    if ((image = kumoManagedSaveOpen(driver, vm, &path, &file)))
        ret = kumoSaveEditXml(driver, path, image, dxml, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}
