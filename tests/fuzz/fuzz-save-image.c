/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the libvirt driver reads of files and peers: a save image up to its stream, and, behind a
 * first byte 'c', a cookie. */
#include <sys/mman.h>
#include <unistd.h>

#include "driver/kumo_cookie.h"
#include "driver/kumo_save_image.h"
#include "virfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ignore_error(void *opaque G_GNUC_UNUSED, virErrorPtr error G_GNUC_UNUSED)
{
}

static void read_cookie(const char *text, size_t len)
{
    g_autoptr(kumoCookie) cookie = kumoCookieParse(text, len);
    g_autoptr(kumoCookie) again = NULL;
    g_autofree char *formatted = NULL;

    if (!cookie)
        return;
    /* What was understood is said again in the same way. */
    formatted = kumoCookieFormat(cookie);
    again = kumoCookieParse(formatted, strlen(formatted));
    g_assert_nonnull(again);
    g_assert_cmpuint(again->elapsedMs, ==, cookie->elapsedMs);
}

static void read_image(const uint8_t *data, size_t size)
{
    g_autoptr(kumoSaveImage) image = NULL;
    int fd = memfd_create("image", MFD_CLOEXEC);

    g_assert_cmpint((int)safewrite(fd, data, size), ==, (int)size);
    g_assert_cmpint((int)lseek(fd, 0, SEEK_SET), ==, 0);
    image = kumoSaveImageRead(fd, "image", NULL);
    if (image && image->cookie)
        read_cookie(image->cookie, strlen(image->cookie));
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool initialized;

    if (!initialized) {
        g_assert_cmpint(virInitialize(), ==, 0);
        virSetErrorFunc(NULL, ignore_error);
        initialized = true;
    }
    if (size > 0 && data[0] == 'c')
        read_cookie((const char *)data + 1, size - 1);
    else
        read_image(data, size);
    virResetLastError();
    return 0;
}
