/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Save images and cookies: what is written is read, and whatever else comes in is refused. */
#include "driver/kumo_cookie.h"
#include "driver/kumo_save_image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "virfile.h"

#define XML    "<domain type='kvm'><name>one</name></domain>\n"
#define STREAM "the stream"

static char *write_image(bool complete, const char *cookie)
{
    char *path = NULL;
    int fd = g_file_open_tmp("kumo-save-XXXXXX", &path, NULL);
    kumoSaveImage image = { .format = KUMO_SAVE_FORMAT_ZSTD,
                            .running = true,
                            .xml = (char *)XML,
                            .cookie = (char *)cookie };

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(kumoSaveImageWrite(fd, path, &image, complete), ==, 0);
    g_assert_cmpint((int)safewrite(fd, STREAM, strlen(STREAM)), ==, (int)strlen(STREAM));
    close(fd);
    return path;
}

static kumoSaveImage *read_image(const char *path, int *ret_fd, bool *ret_damaged)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    kumoSaveImage *image;

    g_assert_cmpint(fd, >=, 0);
    image = kumoSaveImageRead(fd, path, ret_damaged);
    g_assert_true(image || virGetLastErrorCode() != VIR_ERR_OK);
    virResetLastError();
    if (ret_fd)
        *ret_fd = fd;
    else
        close(fd);
    return image;
}

static void test_round_trip(void)
{
    static const char *const cookies[] = { NULL, "<kumo-cookie/>" };

    for (size_t i = 0; i < G_N_ELEMENTS(cookies); i++) {
        g_autofree char *path = write_image(true, cookies[i]);
        g_autoptr(kumoSaveImage) image = NULL;
        bool damaged = true;
        char text[32] = "";
        int fd = -1;

        image = read_image(path, &fd, &damaged);
        g_assert_nonnull(image);
        g_assert_false(damaged);
        g_assert_cmpstr(image->xml, ==, XML);
        g_assert_cmpstr(image->cookie, ==, cookies[i]);
        g_assert_cmpint(image->format, ==, KUMO_SAVE_FORMAT_ZSTD);
        g_assert_true(image->running);
        /* What follows is the stream. */
        g_assert_cmpint((int)saferead(fd, text, sizeof(text) - 1), ==, (int)strlen(STREAM));
        g_assert_cmpstr(text, ==, STREAM);
        close(fd);
        unlink(path);
    }
}

static void test_longer_xml(void)
{
    g_autofree char *path = write_image(true, NULL);
    g_autoptr(kumoSaveImage) image = read_image(path, NULL, NULL);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    g_free(image->xml);
    image->xml = g_strnfill(64 * 1024, 'x');
    g_assert_cmpint(kumoSaveImageWrite(fd, path, image, true), ==, 0);
    g_free(image->xml);
    image->xml = g_strnfill(image->room + 1, 'x');
    g_assert_cmpint(kumoSaveImageWrite(fd, path, image, true), ==, -1);
    g_assert_nonnull(strstr(virGetLastErrorMessage(), "no room"));
    virResetLastError();
    close(fd);
    unlink(path);
}

static void test_not_complete(void)
{
    g_autofree char *path = write_image(false, NULL);
    bool damaged = false;

    g_assert_null(read_image(path, NULL, &damaged));
    g_assert_true(damaged);
    unlink(path);
}

static kumoSaveImage *read_bytes(const char *bytes, size_t len, bool *ret_damaged)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    kumoSaveImage *image;

    g_assert_cmpint((int)safewrite(fd, bytes, len), ==, (int)len);
    g_assert_cmpint((int)lseek(fd, 0, SEEK_SET), ==, 0);
    image = kumoSaveImageRead(fd, "image", ret_damaged);
    g_assert_true(image || virGetLastErrorCode() != VIR_ERR_OK);
    virResetLastError();
    close(fd);
    return image;
}

/* Whatever bit is another, and wherever it is cut off. */
static void test_damage(void)
{
    g_autofree char *path = write_image(true, "<kumo-cookie/>");
    g_autofree char *text = NULL;
    gsize len = 0;

    g_assert_true(g_file_get_contents(path, &text, &len, NULL));
    for (gsize at = 0; at < 64 + strlen(XML) + strlen("<kumo-cookie/>"); at++) {
        for (int bit = 0; bit < 8; bit++) {
            text[at] ^= (char)(1 << bit);
            g_assert_null(read_bytes(text, len, NULL));
            text[at] ^= (char)(1 << bit);
        }
    }
    for (gsize cut = 0; cut < len - strlen(STREAM); cut += 97) {
        bool damaged = false;

        g_assert_null(read_bytes(text, cut, &damaged));
        g_assert_true(damaged);
    }
    unlink(path);
}

static void test_cookie(void)
{
    static const char *const wrong[] = {
        "",
        "<",
        "<other/>",
        "<kumo-cookie><interface/></kumo-cookie>",
        "<kumo-cookie><statistics/></kumo-cookie>",
        "<kumo-cookie><statistics elapsed='1' total='-'/></kumo-cookie>",
    };
    kumoCookie cookie = { .name = (char *)"a<b", .hasStats = true, .elapsedMs = 7 };
    char *aliases[] = { (char *)"net0", (char *)"net3", NULL };
    g_autofree char *text = NULL;
    g_autoptr(kumoCookie) back = NULL;

    cookie.netAliases = aliases;
    cookie.stats.dirtyPagesPerSecond = 12;
    text = kumoCookieFormat(&cookie);
    back = kumoCookieParse(text, strlen(text) + 1);
    g_assert_nonnull(back);
    g_assert_cmpstr(back->name, ==, "a<b");
    g_assert_cmpstr(back->netAliases[1], ==, "net3");
    g_assert_null(back->netAliases[2]);
    g_assert_cmpuint(back->stats.dirtyPagesPerSecond, ==, 12);
    g_assert_cmpuint(back->elapsedMs, ==, 7);

    for (size_t i = 1; i < G_N_ELEMENTS(wrong); i++) {
        g_assert_null(kumoCookieParse(wrong[i], strlen(wrong[i])));
        virResetLastError();
    }
    for (size_t len = 1; len < strlen(text) - 1; len++) {
        g_assert_null(kumoCookieParse(text, len));
        virResetLastError();
    }
}

static void ignore_error(void *opaque G_GNUC_UNUSED, virErrorPtr error G_GNUC_UNUSED)
{
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (virInitialize() < 0)
        return 1;
    virSetErrorFunc(NULL, ignore_error);
    g_test_add_func("/save-image/round-trip", test_round_trip);
    g_test_add_func("/save-image/longer-xml", test_longer_xml);
    g_test_add_func("/save-image/not-complete", test_not_complete);
    g_test_add_func("/save-image/damage", test_damage);
    g_test_add_func("/save-image/cookie", test_cookie);
    return g_test_run();
}
