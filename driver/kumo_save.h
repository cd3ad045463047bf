/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A domain's way into a save image, and out of it. The API that leads here is kumo_driver_save.c.
 */
#pragma once

#include "driver/conf/kumo_domain.h"
#include "driver/kumo_save_image.h"

/* An open image, with the programs that stand between it and the VMM. */
typedef struct _kumoSaveFile kumoSaveFile;

void kumoSaveFileFree(kumoSaveFile *file);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(kumoSaveFile, kumoSaveFileFree);

/**
 * kumoSave:
 * @vm: active, locked, with a job of the kind SAVE
 * @path: of the image; one that is there is replaced
 * @xml: (nullable): what to start from later, if it fits the VM; NULL: the live definition
 * @flags: of virDomainSaveFlags
 *
 * Writes the image and ends the domain. If that fails there is no image, and the guest runs on if
 * it ran.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoSave(virDomainObj *vm, const char *path, kumoSaveFormat format, const char *xml,
             unsigned int flags);

/**
 * kumoSaveOpen:
 * @path: stays there for as long as the file is open
 * @flags: VIR_DOMAIN_SAVE_BYPASS_CACHE
 * @ret_file: (out) (transfer full): at the beginning of the stream
 * @ret_damaged: (out) (optional): as kumoSaveImageRead
 *
 * Returns: (transfer full): the image, or NULL with the error reported.
 */
kumoSaveImage *kumoSaveOpen(kumoDriver *driver, const char *path, unsigned int flags,
                            kumoSaveFile **ret_file, bool *ret_damaged);

/**
 * kumoSaveParse:
 *
 * Returns: (transfer full): the definition in @image, or NULL with the error reported.
 */
virDomainDef *kumoSaveParse(kumoDriver *driver, const kumoSaveImage *image);

/**
 * kumoSaveReplaceXml:
 * @def: of the image
 *
 * Returns: (transfer full): what @xml says if a VM made from @def would run on with it, or NULL
 *     with the error reported.
 */
virDomainDef *kumoSaveReplaceXml(kumoDriver *driver, virDomainDef *def, const char *xml);

/**
 * kumoSaveEditXml:
 * @flags: VIR_DOMAIN_SAVE_RUNNING, VIR_DOMAIN_SAVE_PAUSED
 *
 * Puts another definition into the image at @path.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoSaveEditXml(kumoDriver *driver, const char *path, const kumoSaveImage *image,
                    const char *xml, unsigned int flags);

/**
 * kumoSaveResume:
 * @vm: inactive, locked, with a job of the kind START; its definition is the image's
 * @file: as from kumoSaveOpen
 * @running: run it
 * @startFlags: of kumoStartFlags; KUMO_START_PAUSED: that it does not run was asked for
 *
 * Starts a VMM with the VM of the image.
 *
 * Returns: 0, or -1 with the error reported and everything undone.
 */
int kumoSaveResume(virConnectPtr conn, virDomainObj *vm, const kumoSaveImage *image,
                   kumoSaveFile *file, bool running, unsigned int startFlags);

/**
 * kumoSaveRecover, kumoSaveRecoverIncoming:
 * @vm: active, locked, with a job
 *
 * What becomes of a domain whose save or restore was under way when the daemon ended: it runs on,
 * or it ends.
 */
void kumoSaveRecover(virDomainObj *vm);
void kumoSaveRecoverIncoming(virDomainObj *vm);

/* --- managed save --- */

/* kumoManagedSavePath: (transfer full): where the image of a domain with this name is. */
char *kumoManagedSavePath(kumoDriver *driver, const virDomainDef *def);

/* kumoManagedSaveRemove: Returns: 0, or -1 with the error reported. */
int kumoManagedSaveRemove(virDomainObj *vm);

/**
 * kumoManagedSaveStart:
 * @vm: inactive, locked, with a job of the kind START
 * @startFlags: of kumoStartFlags
 * @flags: VIR_DOMAIN_SAVE_BYPASS_CACHE
 *
 * Starts the domain from its managed save image, which is gone afterwards.
 *
 * Returns: 1 if that was done; 0 if there is none (any more): it was not an image, and has been
 *     removed; -1 with the error reported.
 */
int kumoManagedSaveStart(virConnectPtr conn, virDomainObj *vm, unsigned int startFlags,
                         unsigned int flags);
