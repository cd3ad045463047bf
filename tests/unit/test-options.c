/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/main/options.h"

/* Splits @line at spaces; the quotes of the shell are not needed here. */
static bool parse(const char *line, KumoOptions *options, GError **error)
{
    g_autofree char *text = g_strconcat("kumo ", line, NULL);
    g_auto(GStrv) words = g_strsplit(g_strstrip(text), " ", -1);

    return kumo_options_parse((int)g_strv_length(words), words, options, error);
}

static void test_accepted(void)
{
    g_auto(KumoOptions) options;
    g_autoptr(GError) error = NULL;
    const KumoDiskConfig *disk;
    const KumoLandlockRuleConfig *rule;

    g_assert_true(parse("--api-socket path=/a --event-monitor fd=5 -v -vv --log-file=/l "
                        "--log-format={level}:{msg} --no-shutdown "
                        "--seccomp false "
                        "--kernel /k --disk path=/1 path=/2 --cpus boot=2,profile=Host "
                        "--disk=path=/3 --cmdline=a=b,c --landlock "
                        "--landlock-rules path=/a,access=r access=rw,path=/b",
                        &options, &error));
    g_assert_no_error(error);
    g_assert_cmpstr(options.api_socket, ==, "path=/a");
    g_assert_cmpstr(options.event_monitor, ==, "fd=5");
    g_assert_cmpstr(options.log_file, ==, "/l");
    g_assert_cmpstr(options.log_format, ==, "{level}:{msg}");
    g_assert_cmpuint(options.verbosity, ==, 3);
    g_assert_true(options.no_shutdown);
    g_assert_cmpint(options.seccomp, ==, KUMO_SANDBOX_OFF);
    g_assert_false(options.help || options.version);
    g_assert_cmpstr(options.config->payload.kernel, ==, "/k");
    g_assert_cmpstr(options.config->payload.cmdline, ==, "a=b,c");
    g_assert_cmpuint(options.config->cpus.boot_vcpus, ==, 2);
    g_assert_cmpuint(options.config->disks->len, ==, 3);
    disk = g_ptr_array_index(options.config->disks, 2);
    g_assert_cmpstr(disk->path, ==, "/3");
    g_assert_true(options.config->landlock_enable);
    g_assert_cmpuint(options.config->landlock_rules->len, ==, 2);
    rule = g_ptr_array_index(options.config->landlock_rules, 1);
    g_assert_cmpstr(rule->path, ==, "/b");
    g_assert_cmpstr(rule->access, ==, "rw");
}

/* Cloud Hypervisor's documents write --rng alone. */
static void test_without_value(void)
{
    static const char *const lines[] = { "--rng --kernel /k", "--kernel /k --rng" };

    for (unsigned i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_auto(KumoOptions) options;
        g_autoptr(GError) error = NULL;

        g_assert_true(parse(lines[i], &options, &error));
        g_assert_cmpstr(options.config->rng.src, ==, "/dev/urandom");
        g_assert_cmpstr(options.config->payload.kernel, ==, "/k");
    }
}

static void test_waiting(void)
{
    g_auto(KumoOptions) options;
    g_autoptr(GError) error = NULL;

    g_assert_true(parse("--api-socket /a", &options, &error));
    g_assert_null(options.config);
    g_assert_cmpint(options.seccomp, ==, KUMO_SANDBOX_TRAP);
}

static void test_help(void)
{
    static const char *const lines[] = { "", "-h", "--help", "--version", "-V", "-V -v" };

    for (unsigned i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_auto(KumoOptions) options;
        g_autoptr(GError) error = NULL;

        g_assert_true(parse(lines[i], &options, &error));
        g_assert_true(options.help || options.version);
    }
}

static void test_refused(void)
{
    static const struct {
        const char *line;
        const char *why;
        int code;
    } cases[] = {
        { "--bogus", "--bogus is not an option", KUMO_ERROR_INVALID },
        { "--bogus=3 --help", "--bogus is not an option", KUMO_ERROR_INVALID },
        { "-x", "\"-x\" is not an option", KUMO_ERROR_INVALID },
        { "-vx", "\"-vx\" is not an option", KUMO_ERROR_INVALID },
        { "word", "\"word\" is not an option", KUMO_ERROR_INVALID },
        { "--kernel /k extra", "\"extra\" is not an option", KUMO_ERROR_INVALID },
        { "--kernel", "--kernel needs a value", KUMO_ERROR_INVALID },
        { "--kernel --help", "--kernel needs a value", KUMO_ERROR_INVALID },
        { "--disk -v", "--disk needs a value", KUMO_ERROR_INVALID },
        { "--kernel /k --kernel /l", "--kernel is given twice", KUMO_ERROR_INVALID },
        { "--no-shutdown=yes", "--no-shutdown takes no value", KUMO_ERROR_INVALID },
        { "--cpus boot=1", "needs --kernel or --firmware", KUMO_ERROR_INVALID },
        { "--no-shutdown", "nothing to do", KUMO_ERROR_INVALID },
        { "--kernel /k --cpus boot=x", "boot", KUMO_ERROR_INVALID },
        { "--seccomp maybe --kernel /k", "--seccomp: \"maybe\" is none of true, false, log, errno",
          KUMO_ERROR_INVALID },
        { "--restore prefault=on", "source_url: must be given", KUMO_ERROR_INVALID },
        { "--restore source_url=file:///s,net_fds=[a]", "must be like [id@[fd,fd]",
          KUMO_ERROR_INVALID },
        { "--restore source_url=file:///s,vfio_fds=[a@3]", "not supported yet",
          KUMO_ERROR_NOT_SUPPORTED },
        { "--restore source_url=file:///s --kernel k", "brings its own configuration",
          KUMO_ERROR_INVALID },
        { "--dbus-service-name a.b", "--dbus-object-path is missing", KUMO_ERROR_INVALID },
        { "--dbus-object-path /a", "--dbus-service-name is missing", KUMO_ERROR_INVALID },
        { "--dbus-system-bus --kernel /k", "--dbus-service-name is missing", KUMO_ERROR_INVALID },
        { "--landlock", "needs --kernel or --firmware", KUMO_ERROR_INVALID },
        { "--landlock=on --kernel /k", "--landlock takes no value", KUMO_ERROR_INVALID },
        { "--kernel /k --landlock-rules", "--landlock-rules needs a value", KUMO_ERROR_INVALID },
        { "--kernel /k --landlock-rules path=/a,access=rwx", "access", KUMO_ERROR_INVALID },
        { "--restore source_url=file:///s --landlock", "brings its own configuration",
          KUMO_ERROR_INVALID },
        { "--fs tag=x", "fs is not supported yet", KUMO_ERROR_NOT_SUPPORTED },
        { "--vsock=cid=3", "vsock is not supported yet", KUMO_ERROR_NOT_SUPPORTED },
        { "--rng --rng --kernel /k", "--rng is given twice", KUMO_ERROR_INVALID },
        { "--rtc", "--rtc is not supported yet", KUMO_ERROR_NOT_SUPPORTED },
        { "--watchdog --kernel /k", "--watchdog is not supported yet", KUMO_ERROR_NOT_SUPPORTED },
        { "--kernel /k --pvpanic", "--pvpanic is not supported yet", KUMO_ERROR_NOT_SUPPORTED },
        { "--pvmemcontrol", "--pvmemcontrol is not supported yet", KUMO_ERROR_NOT_SUPPORTED },
        { "--kernel /k --cpus profile=Other", "profile is not supported yet",
          KUMO_ERROR_NOT_SUPPORTED },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(KumoOptions) options;
        g_autoptr(GError) error = NULL;

        g_assert_false(parse(cases[i].line, &options, &error));
        g_assert_error(error, KUMO_ERROR, cases[i].code);
        if (!strstr(error->message, cases[i].why))
            g_error("\"%s\" says \"%s\", not \"%s\"", cases[i].line, error->message, cases[i].why);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/options/accepted", test_accepted);
    g_test_add_func("/options/without-value", test_without_value);
    g_test_add_func("/options/waiting", test_waiting);
    g_test_add_func("/options/help", test_help);
    g_test_add_func("/options/refused", test_refused);
    return g_test_run();
}
