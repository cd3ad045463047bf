/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs a fuzz target without a fuzzer: each file of its corpus is a test, and one more feeds it
 * inputs made from the corpus by a generator with a fixed seed, the same ones in every run. The
 * environment's KUMO_FUZZ_SEED and KUMO_FUZZ_SECONDS make others, for as long. Built with libFuzzer
 * (meson option fuzz), this file is left out.
 */
#include <glib.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    SEED = 20261122,
    NOISE_INPUTS = 2000,
    NOISE_MAX_BYTES = 2048,
    NOISE_MAX_SECONDS = 10, /* slow machines do fewer */
};

static GPtrArray *corpus; /* of GBytes */

static void test_file(gconstpointer data)
{
    gsize size;
    const uint8_t *bytes = g_bytes_get_data((GBytes *)data, &size);

    LLVMFuzzerTestOneInput(bytes, size);
}

/* A file of the corpus with some bytes changed, cut short or run into another, or nothing but
 * noise. */
static size_t make_input(GRand *rand, uint8_t *buf)
{
    unsigned way = (unsigned)g_rand_int_range(rand, 0, 4);
    size_t len = 0;

    if (way == 0) {
        len = (size_t)g_rand_int_range(rand, 0, NOISE_MAX_BYTES);
        for (size_t i = 0; i < len; i++)
            buf[i] = (uint8_t)g_rand_int(rand);
        return len;
    }
    for (unsigned i = 0; i < way; i++) {
        gsize size;
        guint which = (guint)g_rand_int_range(rand, 0, (gint32)corpus->len);
        const uint8_t *bytes = g_bytes_get_data(g_ptr_array_index(corpus, which), &size);
        size_t from = size ? (size_t)g_rand_int_range(rand, 0, (gint32)size) : 0;
        size_t part = MIN(size - from, NOISE_MAX_BYTES - len);

        memcpy(buf + len, bytes + from, part);
        len += part;
    }
    for (unsigned i = (unsigned)g_rand_int_range(rand, 0, 16); i > 0 && len > 0; i--)
        buf[g_rand_int_range(rand, 0, (gint32)len)] = (uint8_t)g_rand_int(rand);
    return len;
}

static void test_noise(void)
{
    const char *seed = g_getenv("KUMO_FUZZ_SEED"), *seconds = g_getenv("KUMO_FUZZ_SECONDS");
    GRand *rand = g_rand_new_with_seed(seed ? (guint32)strtoul(seed, NULL, 0) : SEED);
    int64_t length = seconds ? strtol(seconds, NULL, 10) : NOISE_MAX_SECONDS;
    int64_t until = g_get_monotonic_time() + length * G_USEC_PER_SEC;
    unsigned done = 0;

    while ((seconds || done < NOISE_INPUTS) && g_get_monotonic_time() < until) {
        /* On the heap and of the exact size, so that the sanitizer sees a read beyond it. */
        uint8_t buf[NOISE_MAX_BYTES];
        size_t len = make_input(rand, buf);
        g_autofree uint8_t *input = g_memdup2(buf, len);

        LLVMFuzzerTestOneInput(input, len);
        done++;
    }
    g_test_message("%u inputs", done);
    g_assert_cmpuint(done, >, 0);
    g_rand_free(rand);
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *target = NULL;
    const char *name;
    GDir *dir;
    int status;

    g_test_init(&argc, &argv, NULL);
    if (argc != 2) {
        g_printerr("usage: %s CORPUS-DIRECTORY\n", argv[0]);
        return 2;
    }
    target = g_path_get_basename(argv[1]);
    corpus = g_ptr_array_new_with_free_func((GDestroyNotify)g_bytes_unref);
    dir = g_dir_open(argv[1], 0, &error);
    g_assert_no_error(error);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(argv[1], name, NULL);
        g_autofree char *path = g_strdup_printf("/fuzz/%s/%s", target, name);
        char *content;
        gsize size;

        g_file_get_contents(file, &content, &size, &error);
        g_assert_no_error(error);
        g_ptr_array_add(corpus, g_bytes_new_take(content, size));
        g_test_add_data_func(path, g_ptr_array_index(corpus, corpus->len - 1), test_file);
    }
    g_dir_close(dir);
    g_assert_cmpuint(corpus->len, >, 0);
    {
        g_autofree char *path = g_strdup_printf("/fuzz/%s/noise", target);

        g_test_add_func(path, test_noise);
    }
    status = g_test_run();
    g_ptr_array_unref(corpus);
    return status;
}
