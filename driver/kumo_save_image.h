/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file that a domain is saved into: a header, the domain XML with room to be edited, and the
 * stream of the VM as docs/migration.md has it, which may be compressed. An image is hostile until
 * it has been checked.
 */
#pragma once

#include "driver/conf/kumo_conf.h"

typedef struct {
    kumoSaveFormat format; /* of the stream */
    bool running;          /* the guest ran when it was saved */
    char *xml;
    char *cookie; /* of kumo_cookie.h, or NULL */
    size_t room;  /* bytes for XML and cookie; 0: to be chosen when it is written */
} kumoSaveImage;

void kumoSaveImageFree(kumoSaveImage *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(kumoSaveImage, kumoSaveImageFree);

/**
 * kumoSaveImageWrite:
 * @fd: at the beginning of the file
 * @path: for messages
 * @complete: whether the stream behind it is
 *
 * Writes all that comes before the stream; an image that is not complete is marked as such.
 *
 * Returns: 0, or -1 with the error reported: among others, the room does not suffice.
 */
int kumoSaveImageWrite(int fd, const char *path, kumoSaveImage *image, bool complete);

/**
 * kumoSaveImageRead:
 * @fd: at the beginning of the file; at the beginning of the stream afterwards
 * @ret_damaged: (out) (optional): this has never been, or is no longer, a whole image
 *
 * Returns: (transfer full): the image, or NULL with the error reported.
 */
kumoSaveImage *kumoSaveImageRead(int fd, const char *path, bool *ret_damaged);
