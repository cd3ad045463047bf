/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The event stream's parser: whatever a VMM writes, in pieces of any size. */
#include <glib.h>
#include <string.h>

#include "driver/kumo_events.h"

static void collect(const kumoEvent *event, void *opaque)
{
    g_string_append_printf(opaque, "%s/%s%s%s ", event->source, event->event, event->id ? ":" : "",
                           event->id ? event->id : "");
}

/* Feeds @text in pieces of @piece bytes. */
static unsigned int feed(const char *text, size_t piece, GString *seen)
{
    g_autoptr(GString) buffer = g_string_new(NULL);
    unsigned int garbage = 0;

    for (size_t at = 0; at < strlen(text); at += piece) {
        g_string_append_len(buffer, text + at, (gssize)MIN(piece, strlen(text) - at));
        garbage += kumoEventsParse(buffer, collect, seen);
    }
    return garbage;
}

static const char stream[] = "{\n  \"timestamp\": {\"secs\": 0, \"nanos\": 5},\n"
                             "  \"source\": \"vm\",\n  \"event\": \"booting\",\n"
                             "  \"properties\": null\n}\n\n"
                             "{\"source\": \"virtio-device\", \"event\": \"activated\", "
                             "\"properties\": {\"id\": \"}{\\\"\"}}\n\n"
                             "{\"source\": \"vm\", \"event\": \"booted\"}\n\n";

static void test_pieces(void)
{
    for (size_t piece = 1; piece <= sizeof(stream); piece++) {
        g_autoptr(GString) seen = g_string_new(NULL);

        g_assert_cmpuint(feed(stream, piece, seen), ==, 0);
        g_assert_cmpstr(seen->str, ==, "vm/booting virtio-device/activated:}{\" vm/booted ");
    }
}

static void test_garbage(void)
{
    static const char *const pieces[] = {
        "what is this\n\n",
        "}}}\n\n",
        "[1, 2]\n\n",
        "{\"source\": 7, \"event\": \"x\"}\n\n",
        "{\"event\": \"x\"}\n\n",
        "{]\n\n",
        "\"text\"\n\n",
        "{\"source\": \"\\ud800\"}\n\n",
        "{\"a\": 1e999999}\n\n",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(pieces); i++) {
        g_autofree char *text =
            g_strconcat(pieces[i], "{\"source\":\"vm\",\"event\":\"paused\"}\n\n", NULL);
        g_autoptr(GString) seen = g_string_new(NULL);

        g_assert_cmpuint(feed(text, 4096, seen), >, 0);
        g_assert_cmpstr(seen->str, ==, "vm/paused ");
    }
}

/* An object that never ends is given up, so that it takes neither memory nor what follows. */
static void test_endless(void)
{
    g_autoptr(GString) text = g_string_new("{\"source\": \"");
    g_autoptr(GString) seen = g_string_new(NULL);
    g_autoptr(GString) buffer = g_string_new(NULL);

    for (int i = 0; i < 40000; i++)
        g_string_append(text, "aaaa");
    g_string_append_len(buffer, text->str, (gssize)text->len);
    g_assert_cmpuint(kumoEventsParse(buffer, collect, seen), ==, 1);
    g_assert_cmpuint(buffer->len, ==, 0);

    g_string_append(buffer, "{\"source\":\"vm\",\"event\":\"resumed\"}\n\n");
    g_assert_cmpuint(kumoEventsParse(buffer, collect, seen), ==, 0);
    g_assert_cmpstr(seen->str, ==, "vm/resumed ");
}

/* Zero bytes are garbage like any other. */
static void test_zeros(void)
{
    static const char text[] =
        "\0\0{\"source\"\0\n\n{\"source\":\"vm\",\"event\":\"shutdown\"}\n\n";
    g_autoptr(GString) seen = g_string_new(NULL);
    g_autoptr(GString) buffer = g_string_new_len(text, sizeof(text) - 1);

    g_assert_cmpuint(kumoEventsParse(buffer, collect, seen), ==, 1);
    g_assert_cmpstr(seen->str, ==, "vm/shutdown ");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/events/pieces", test_pieces);
    g_test_add_func("/events/garbage", test_garbage);
    g_test_add_func("/events/endless", test_endless);
    g_test_add_func("/events/zeros", test_zeros);
    return g_test_run();
}
