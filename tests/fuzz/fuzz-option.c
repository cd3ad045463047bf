/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Option strings: each line of the input is an option's name, a blank and its value. What is
 * refused leaves the configuration as it was.
 */
#include <stdlib.h>
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/option.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_BYTES = 1 << 14, MAX_LINES = 32 };

static void check(bool good)
{
    if (!good)
        abort();
}

static char *show(const KumoVmConfig *config)
{
    json_t *json = kumo_vm_config_to_json(config);
    char *text = json_dumps(json, JSON_COMPACT);

    check(text != NULL);
    json_decref(json);
    return text;
}

/* The numbers are not those of descriptors that this process could give away. */
static void forget_fds(KumoNetConfig *net)
{
    if (net->fds)
        g_array_set_size(net->fds, 0);
}

static void apply(KumoVmConfig *config, char *line)
{
    char *value = strchr(line, ' ');
    g_autoptr(GError) error = NULL;
    char *before = show(config);
    char *after;

    if (value)
        *value++ = '\0';
    if (!kumo_option_apply(config, line, value ? value : "", &error)) {
        check(error && error->domain == KUMO_ERROR && kumo_error_http_status(error) < 500);
        after = show(config);
        check(strcmp(before, after) == 0);
        free(after);
    } else {
        check(!error && kumo_option_is_vm_config(line));
    }
    for (guint i = 0; i < config->nets->len; i++)
        forget_fds(config->nets->pdata[i]);
    free(before);
}

/* What kumo-remote and --restore take by themselves. */
static void parse_single(const char *line)
{
    g_autoptr(KumoDiskConfig) disk = kumo_option_parse_disk(line, NULL);
    g_autoptr(KumoNetConfig) net = kumo_option_parse_net(line, NULL);
    g_autoptr(KumoRestoreConfig) restore = kumo_option_parse_restore(line, NULL);
    uint64_t bytes;

    if (net)
        forget_fds(net);
    for (guint i = 0; restore && i < restore->nets->len; i++)
        g_array_set_size(((KumoRestoreNet *)restore->nets->pdata[i])->fds, 0);
    (void)kumo_parse_size(line, &bytes, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup(size ? (const char *)data : "", MIN(size, MAX_BYTES));
    g_auto(GStrv) lines = g_strsplit(text, "\n", MAX_LINES);
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;

    for (char **line = lines; *line; line++) {
        parse_single(*line);
        apply(config, *line);
    }
    if (!kumo_vm_config_validate(config, &error))
        check(error && error->domain == KUMO_ERROR && kumo_error_http_status(error) < 500);
    return 0;
}
