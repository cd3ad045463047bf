/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_save_image.h"

#include <unistd.h>

#include "virfile.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

#define KUMO_SAVE_VERSION 1

static const char kumoSaveMagic[16] = "kumo-save-image";
static const char kumoSavePartial[16] = "kumo-save-part";

/* So that the XML can be edited into a longer one. */
#define KUMO_SAVE_SPARE    (64 * 1024)
#define KUMO_SAVE_ALIGN    4096
#define KUMO_SAVE_MAX_ROOM (64 * 1024 * 1024)

/* All numbers are little endian. */
typedef struct {
    char magic[16];
    uint32_t version;
    uint32_t format; /* of kumoSaveFormat */
    uint32_t running;
    uint32_t reserved;
    uint32_t xmlLen; /* without a terminating zero */
    uint32_t cookieLen;
    uint64_t room;     /* what follows before the stream: XML, cookie, zeros */
    uint8_t check[16]; /* the first bytes of the SHA-256 of all from version to cookie but this */
} kumoSaveHeader;

G_STATIC_ASSERT(sizeof(kumoSaveHeader) == 64);

void kumoSaveImageFree(kumoSaveImage *image)
{
    if (!image)
        return;
    g_free(image->xml);
    g_free(image->cookie);
    g_free(image);
}

/* @header: with all but the checksum */
static void kumoSaveImageSum(const kumoSaveHeader *header, const kumoSaveImage *image,
                             uint8_t sum[16])
{
    g_autoptr(GChecksum) checksum = g_checksum_new(G_CHECKSUM_SHA256);
    guint8 digest[32];
    gsize len = sizeof(digest);

    g_checksum_update(checksum, (const guchar *)&header->version,
                      offsetof(kumoSaveHeader, check) - offsetof(kumoSaveHeader, version));
    g_checksum_update(checksum, (const guchar *)image->xml, (gssize)strlen(image->xml));
    if (image->cookie)
        g_checksum_update(checksum, (const guchar *)image->cookie, (gssize)strlen(image->cookie));
    g_checksum_get_digest(checksum, digest, &len);
    memcpy(sum, digest, 16);
}

int kumoSaveImageWrite(int fd, const char *path, kumoSaveImage *image, bool complete)
{
    size_t xmlLen = strlen(image->xml);
    size_t cookieLen = image->cookie ? strlen(image->cookie) : 0;
    size_t used = xmlLen + cookieLen;
    kumoSaveHeader header = { .version = GUINT32_TO_LE(KUMO_SAVE_VERSION),
                              .format = GUINT32_TO_LE((uint32_t)image->format),
                              .running = GUINT32_TO_LE(image->running ? 1U : 0U) };
    g_autofree char *all = NULL;
    size_t total;

    if (image->room == 0)
        image->room =
            VIR_ROUND_UP(sizeof(header) + used + KUMO_SAVE_SPARE, KUMO_SAVE_ALIGN) - sizeof(header);
    if (used > image->room || image->room > KUMO_SAVE_MAX_ROOM) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the domain XML of %zu bytes has no room in the save image %s"), xmlLen,
                       path);
        return -1;
    }
    memcpy(header.magic, complete ? kumoSaveMagic : kumoSavePartial, sizeof(header.magic));
    header.xmlLen = GUINT32_TO_LE((uint32_t)xmlLen);
    header.cookieLen = GUINT32_TO_LE((uint32_t)cookieLen);
    header.room = GUINT64_TO_LE((uint64_t)image->room);
    kumoSaveImageSum(&header, image, header.check);

    total = sizeof(header) + image->room;
    all = g_malloc0(total);
    memcpy(all, &header, sizeof(header));
    memcpy(all + sizeof(header), image->xml, xmlLen);
    if (image->cookie)
        memcpy(all + sizeof(header) + xmlLen, image->cookie, cookieLen);
    if (safewrite(fd, all, total) != (ssize_t)total) {
        virReportSystemError(errno, _("cannot write the save image %s"), path);
        return -1;
    }
    return 0;
}

static int kumoSaveImageCheck(const kumoSaveHeader *header, const char *path, bool *ret_damaged)
{
    uint32_t version = GUINT32_FROM_LE(header->version);
    uint64_t room = GUINT64_FROM_LE(header->room);
    uint64_t used = (uint64_t)GUINT32_FROM_LE(header->xmlLen) + GUINT32_FROM_LE(header->cookieLen);

    if (memcmp(header->magic, kumoSavePartial, sizeof(header->magic)) == 0) {
        *ret_damaged = true;
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the save image %s is not complete: the save that made it did not come to "
                         "its end"),
                       path);
        return -1;
    }
    if (memcmp(header->magic, kumoSaveMagic, sizeof(header->magic)) != 0) {
        *ret_damaged = true;
        virReportError(VIR_ERR_OPERATION_FAILED, _("%s is not a save image of kumo"), path);
        return -1;
    }
    /* A newer one is whole, for those who know it. */
    if (version < 1 || version > KUMO_SAVE_VERSION) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the save image %s has version %u, this driver reads up to %d"), path,
                       version, KUMO_SAVE_VERSION);
        return -1;
    }
    if (room > KUMO_SAVE_MAX_ROOM || used > room || GUINT32_FROM_LE(header->running) > 1 ||
        GUINT32_FROM_LE(header->format) >= KUMO_SAVE_FORMAT_LAST) {
        *ret_damaged = true;
        virReportError(VIR_ERR_OPERATION_FAILED, _("the header of the save image %s is damaged"),
                       path);
        return -1;
    }
    return 0;
}

kumoSaveImage *kumoSaveImageRead(int fd, const char *path, bool *ret_damaged)
{
    g_autoptr(kumoSaveImage) image = g_new0(kumoSaveImage, 1);
    g_autofree char *text = NULL;
    kumoSaveHeader header;
    bool damaged = false;
    uint8_t sum[16];
    ssize_t n = saferead(fd, &header, sizeof(header));

    if (!ret_damaged)
        ret_damaged = &damaged;
    *ret_damaged = false;
    if (n < 0) {
        virReportSystemError(errno, _("cannot read the save image %s"), path);
        return NULL;
    }
    if (n != sizeof(header)) {
        *ret_damaged = true;
        virReportError(VIR_ERR_OPERATION_FAILED, _("%s is not a save image of kumo"), path);
        return NULL;
    }
    if (kumoSaveImageCheck(&header, path, ret_damaged) < 0)
        return NULL;

    image->format = (kumoSaveFormat)GUINT32_FROM_LE(header.format);
    image->running = GUINT32_FROM_LE(header.running) == 1;
    image->room = (size_t)GUINT64_FROM_LE(header.room);
    text = g_malloc(image->room + 1);
    if ((n = saferead(fd, text, image->room)) < 0) {
        virReportSystemError(errno, _("cannot read the save image %s"), path);
        return NULL;
    }
    if ((size_t)n != image->room) {
        *ret_damaged = true;
        virReportError(VIR_ERR_OPERATION_FAILED, _("the save image %s is cut off"), path);
        return NULL;
    }
    image->xml = g_strndup(text, GUINT32_FROM_LE(header.xmlLen));
    if (header.cookieLen)
        image->cookie =
            g_strndup(text + GUINT32_FROM_LE(header.xmlLen), GUINT32_FROM_LE(header.cookieLen));
    kumoSaveImageSum(&header, image, sum);
    if (memcmp(sum, header.check, sizeof(sum)) != 0) {
        *ret_damaged = true;
        virReportError(VIR_ERR_OPERATION_FAILED, _("the beginning of the save image %s is damaged"),
                       path);
        return NULL;
    }
    return g_steal_pointer(&image);
}
