/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <limits.h>

#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

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

static const KumoField disk_fields[] = {
    { .type = KUMO_FIELD_INCLUDE,
      .offset = offsetof(KumoDiskConfig, pci),
      .section = &kumo_pci_common_section },
    { .cli = "path",
      .json = "path",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoDiskConfig, path),
      .max = PATH_MAX - 1 },
    { .cli = "readonly",
      .json = "readonly",
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoDiskConfig, readonly) },
    { .cli = "direct",
      .json = "direct",
      .host = true,
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
      .chosen = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoDiskConfig, serial),
      .max = KUMO_DISK_SERIAL_MAX },
    { .cli = "image_type",
      .json = "image_type",
      .host = true,
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoDiskConfig, image_type),
      .def = KUMO_IMAGE_UNKNOWN,
      .names = image_type_names },
    { .type = KUMO_FIELD_INCLUDE,
      .offset = offsetof(KumoDiskConfig, rate),
      .section = &kumo_directed_rate_limit_section },
    { .cli = "rate_limit_group",
      .json = "rate_limit_group",
      .host = true,
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoDiskConfig, rate_limit_group),
      .max = KUMO_ID_MAX },
    { .cli = "vhost_user",
      .json = "vhost_user",
      .type = KUMO_FIELD_NOT_YET,
      .json_default = "false" },
    { .cli = "socket", .json = "vhost_socket", .type = KUMO_FIELD_NOT_YET },
    { .cli = "queue_affinity",
      .json = "queue_affinity",
      .host = true,
      .type = KUMO_FIELD_LIST,
      .offset = offsetof(KumoDiskConfig, queue_affinity),
      .section = &kumo_queue_affinity_section },
    { .cli = "backing_files",
      .json = "backing_files",
      .type = KUMO_FIELD_NOT_YET,
      .json_default = "false" },
    { .cli = "sparse",
      .json = "sparse",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoDiskConfig, sparse),
      .def = true },
    { .cli = "lock_granularity",
      .json = "lock_granularity",
      .host = true,
      .type = KUMO_FIELD_ENUM,
      .offset = offsetof(KumoDiskConfig, lock_granularity),
      .def = KUMO_LOCK_BYTE_RANGE,
      .names = lock_granularity_names },
    { .cli = "_disable_io_uring",
      .json = "disable_io_uring",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoDiskConfig, disable_io_uring) },
    { .cli = "_disable_aio",
      .json = "disable_aio",
      .host = true,
      .type = KUMO_FIELD_BOOL,
      .offset = offsetof(KumoDiskConfig, disable_aio) },
    { .cli = "write_threshold",
      .json = "write_threshold",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoDiskConfig, write_threshold_bytes) },
};

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
    return kumo_queue_affinity_check(disk->queue_affinity, disk->num_queues, "num_queues", path,
                                     error);
}

const KumoSection kumo_disk_section = {
    .option = "disk",
    .fields = disk_fields,
    .n_fields = G_N_ELEMENTS(disk_fields),
    .size = sizeof(KumoDiskConfig),
    .validate = disk_validate,
};
