/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <limits.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

enum { HOST_CPU_MAX = 65535 };

static const KumoEnumName image_type_names[] = {
    { .json = "Unknown", .value = KUMO_IMAGE_UNKNOWN },
    { .cli = "raw", .json = "Raw", .value = KUMO_IMAGE_RAW },
    { .cli = "qcow2", .json = "Qcow2", .not_yet = true },
    { .cli = "vhd", .json = "FixedVhd", .not_yet = true },
    { .cli = "vhdx", .json = "Vhdx", .not_yet = true },
    { .cli = "vmdk", .json = "FlatVmdk", .not_yet = true },
    {},
};

static const KumoEnumName lock_granularity_names[] = {
    { .cli = "byte-range", .json = "ByteRange", .value = KUMO_LOCK_BYTE_RANGE },
    { .cli = "full", .json = "Full", .value = KUMO_LOCK_FULL },
    {},
};

static const KumoField queue_affinity_fields[] = {
    { .json = "queue_index",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoQueueAffinity, queue_index),
      .max = KUMO_MAX_QUEUES - 1 },
    { .json = "host_cpus",
      .type = KUMO_FIELD_NUMBERS,
      .offset = offsetof(KumoQueueAffinity, host_cpus),
      .max = HOST_CPU_MAX },
};

static bool queue_affinity_validate(const void *object, const char *path, GError **error)
{
    const KumoQueueAffinity *affinity = object;

    if (affinity->host_cpus->len)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "%s.host_cpus: [] is not allowed, must not be empty", path);
    return false;
}

static const KumoSection queue_affinity_section = {
    .fields = queue_affinity_fields,
    .n_fields = G_N_ELEMENTS(queue_affinity_fields),
    .size = sizeof(KumoQueueAffinity),
    .validate = queue_affinity_validate,
};

static const KumoField disk_fields[] = {
    { .type = KUMO_FIELD_INCLUDE,
      .offset = offsetof(KumoDiskConfig, pci),
      .section = &kumo_pci_common_section },
    { .cli = "path",
      .json = "path",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoDiskConfig, path),
      .max = PATH_MAX - 1 },
    { .cli = "readonly",
      .json = "readonly",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoDiskConfig, readonly) },
    { .cli = "direct",
      .json = "direct",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoDiskConfig, direct) },
    { .cli = "num_queues",
      .json = "num_queues",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoDiskConfig, num_queues),
      .def = 1,
      .min = 1,
      .max = KUMO_MAX_QUEUES },
    { .cli = "queue_size",
      .json = "queue_size",
      .type = KUMO_FIELD_U32,
      .offset = offsetof(KumoDiskConfig, queue_size),
      .def = 128,
      .min = 4, /* a request has three descriptors */
      .max = KUMO_MAX_QUEUE_SIZE,
      .pow2 = true },
    { .cli = "serial",
      .json = "serial",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoDiskConfig, serial),
      .max = KUMO_DISK_SERIAL_MAX },
    { .cli = "image_type",
      .json = "image_type",
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoDiskConfig, image_type),
      .def = KUMO_IMAGE_UNKNOWN,
      .names = image_type_names },
    { .type = KUMO_FIELD_INCLUDE,
      .offset = offsetof(KumoDiskConfig, rate),
      .section = &kumo_rate_limit_section },
    { .cli = "rate_limit_group",
      .json = "rate_limit_group",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoDiskConfig, rate_limit_group),
      .max = KUMO_ID_MAX },
    { .cli = "vhost_user", .json = "vhost_user", .type = KUMO_FIELD_NOT_YET },
    { .cli = "socket", .json = "vhost_socket", .type = KUMO_FIELD_NOT_YET },
    { .cli = "queue_affinity",
      .json = "queue_affinity",
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoDiskConfig, queue_affinity),
      .section = &queue_affinity_section },
    { .cli = "backing_files", .json = "backing_files", .type = KUMO_FIELD_NOT_YET },
    { .cli = "sparse",
      .json = "sparse",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoDiskConfig, sparse),
      .def = true },
    { .cli = "lock_granularity",
      .json = "lock_granularity",
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoDiskConfig, lock_granularity),
      .def = KUMO_LOCK_BYTE_RANGE,
      .names = lock_granularity_names },
    { .cli = "_disable_io_uring",
      .json = "disable_io_uring",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoDiskConfig, disable_io_uring) },
    { .cli = "_disable_aio",
      .json = "disable_aio",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoDiskConfig, disable_aio) },
};

static bool check_queue_affinity(const KumoDiskConfig *disk, const char *path, GError **error)
{
    for (guint i = 0; i < disk->queue_affinity->len; i++) {
        const KumoQueueAffinity *affinity = disk->queue_affinity->pdata[i];

        if (affinity->queue_index >= disk->num_queues) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "%s.queue_affinity[%u].queue_index: %u is not allowed, must be below "
                        "num_queues, %u",
                        path, i, affinity->queue_index, disk->num_queues);
            return false;
        }
        for (guint n = 0; n < i; n++) {
            const KumoQueueAffinity *other = disk->queue_affinity->pdata[n];

            if (other->queue_index == affinity->queue_index) {
                g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                            "%s.queue_affinity[%u].queue_index: %u is there twice", path, i,
                            affinity->queue_index);
                return false;
            }
        }
    }
    return true;
}

static bool disk_validate(const void *object, const char *path, GError **error)
{
    const KumoDiskConfig *disk = object;

    if (!disk->path) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s.path: the path of the image is missing", path);
        return false;
    }
    if (disk->rate_limit_group && disk->rate.has_limit) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "%s: rate_limit_group and limits of its own exclude each other", path);
        return false;
    }
    return check_queue_affinity(disk, path, error);
}

const KumoSection kumo_disk_section = {
    .option = "disk",
    .fields = disk_fields,
    .n_fields = G_N_ELEMENTS(disk_fields),
    .size = sizeof(KumoDiskConfig),
    .validate = disk_validate,
};
