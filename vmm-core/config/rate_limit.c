/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Limits of bandwidth and operations. In JSON they are an object of two token buckets; in an option
 * string each number of them is a key of the device.
 */
#include "vmm-core/base/error.h"
#include "vmm-core/config/field.h"

static const KumoField bucket_fields[] = {
    { .json = "size", .type = KUMO_FIELD_SIZE, .offset = offsetof(KumoRateBucket, size) },
    { .json = "one_time_burst",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoRateBucket, one_time_burst),
      .optional = true },
    { .json = "refill_time",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoRateBucket, refill_time_ms),
      .plain = true,
      .max = KUMO_RATE_REFILL_MAX_MS },
};

/* A bucket needs both numbers; all of them zero is a bucket that limits nothing. */
static bool bucket_validate(const void *object, const char *path, GError **error)
{
    const KumoRateBucket *bucket = object;

    if (bucket->size && bucket->refill_time_ms)
        return true;
    if (!bucket->size && !bucket->refill_time_ms && !bucket->one_time_burst)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "%s: size %" G_GUINT64_FORMAT " and refill_time %" G_GUINT64_FORMAT
                " are not allowed, both must be given",
                path, bucket->size, bucket->refill_time_ms);
    return false;
}

static const KumoSection bucket_section = {
    .fields = bucket_fields,
    .n_fields = G_N_ELEMENTS(bucket_fields),
    .size = sizeof(KumoRateBucket),
    .validate = bucket_validate,
};

#define BUCKET(name)                                                                               \
    {                                                                                              \
        .json = #name, .type = KUMO_FIELD_SECTION, .offset = offsetof(KumoRateLimit, name),        \
        .section = &bucket_section, .present_offset = offsetof(KumoRateLimit, has_##name)          \
    }

static const KumoField limit_fields[] = { BUCKET(bandwidth), BUCKET(ops) };

/* More than Cloud Hypervisor has: limits of one direction, and operations that count for several.
 */
static const KumoField directed_limit_fields[] = {
    BUCKET(bandwidth),
    BUCKET(ops),
    BUCKET(read_bandwidth),
    BUCKET(read_ops),
    BUCKET(write_bandwidth),
    BUCKET(write_ops),
    { .json = "op_size",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoRateLimit, op_size_bytes),
      .optional = true },
};

static void bucket_finish(const KumoRateBucket *bucket, bool *has)
{
    *has = *has || bucket->size || bucket->one_time_burst || bucket->refill_time_ms;
}

static void limit_finish(void *object)
{
    KumoRateLimit *limit = object;

    bucket_finish(&limit->bandwidth, &limit->has_bandwidth);
    bucket_finish(&limit->ops, &limit->has_ops);
    bucket_finish(&limit->read_bandwidth, &limit->has_read_bandwidth);
    bucket_finish(&limit->read_ops, &limit->has_read_ops);
    bucket_finish(&limit->write_bandwidth, &limit->has_write_bandwidth);
    bucket_finish(&limit->write_ops, &limit->has_write_ops);
}

static bool limit_validate(const void *object, const char *path, GError **error)
{
    const KumoRateLimit *limit = object;

    if (!limit->op_size_bytes || limit->ops.size || limit->read_ops.size || limit->write_ops.size)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "%s.op_size: %" G_GUINT64_FORMAT " needs a limit of operations", path,
                limit->op_size_bytes);
    return false;
}

static const KumoSection limit_section = {
    .fields = limit_fields,
    .n_fields = G_N_ELEMENTS(limit_fields),
    .size = sizeof(KumoRateLimit),
    .finish = limit_finish,
};

static const KumoSection directed_limit_section = {
    .fields = directed_limit_fields,
    .n_fields = G_N_ELEMENTS(directed_limit_fields),
    .size = sizeof(KumoRateLimit),
    .finish = limit_finish,
    .validate = limit_validate,
};

#define LIMIT(in_section)                                                                          \
    {                                                                                              \
        .json = "rate_limiter_config", .host = true, .type = KUMO_FIELD_SECTION,                   \
        .offset = offsetof(KumoRateLimitConfig, limit), .section = &(in_section),                  \
        .present_offset = offsetof(KumoRateLimitConfig, has_limit)                                 \
    }

/* The three numbers of a bucket as keys of the device. */
#define NUMBERS(prefix, bucket)                                                                    \
    { .cli = prefix "_size",                                                                       \
      .type = KUMO_FIELD_SIZE,                                                                     \
      .offset = offsetof(KumoRateLimitConfig, limit.bucket.size) },                                \
        { .cli = prefix "_one_time_burst",                                                         \
          .type = KUMO_FIELD_SIZE,                                                                 \
          .offset = offsetof(KumoRateLimitConfig, limit.bucket.one_time_burst) },                  \
    {                                                                                              \
        .cli = prefix "_refill_time", .type = KUMO_FIELD_SIZE,                                     \
        .offset = offsetof(KumoRateLimitConfig, limit.bucket.refill_time_ms),                      \
        .max = KUMO_RATE_REFILL_MAX_MS                                                             \
    }

static const KumoField rate_limit_fields[] = {
    LIMIT(limit_section),
    NUMBERS("bw", bandwidth),
    NUMBERS("ops", ops),
};

static const KumoField directed_rate_limit_fields[] = {
    LIMIT(directed_limit_section),
    NUMBERS("bw", bandwidth),
    NUMBERS("ops", ops),
    NUMBERS("read_bw", read_bandwidth),
    NUMBERS("read_ops", read_ops),
    NUMBERS("write_bw", write_bandwidth),
    NUMBERS("write_ops", write_ops),
    { .cli = "op_size",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoRateLimitConfig, limit.op_size_bytes) },
};

static void rate_limit_finish(void *object)
{
    KumoRateLimitConfig *rate = object;
    const KumoRateLimit *limit = &rate->limit;

    rate->has_limit = rate->has_limit || limit->has_bandwidth || limit->has_ops ||
                      limit->has_read_bandwidth || limit->has_read_ops ||
                      limit->has_write_bandwidth || limit->has_write_ops || limit->op_size_bytes;
}

const KumoSection kumo_rate_limit_section = {
    .fields = rate_limit_fields,
    .n_fields = G_N_ELEMENTS(rate_limit_fields),
    .size = sizeof(KumoRateLimitConfig),
    .finish = rate_limit_finish,
};

const KumoSection kumo_directed_rate_limit_section = {
    .fields = directed_rate_limit_fields,
    .n_fields = G_N_ELEMENTS(directed_rate_limit_fields),
    .size = sizeof(KumoRateLimitConfig),
    .finish = rate_limit_finish,
};

static const KumoField group_fields[] = {
    { .cli = "id",
      .json = "id",
      .type = KUMO_FIELD_STRING,
      .offset = offsetof(KumoRateLimitGroupConfig, id),
      .max = KUMO_ID_MAX },
    { .type = KUMO_FIELD_INCLUDE,
      .offset = offsetof(KumoRateLimitGroupConfig, rate),
      .section = &kumo_directed_rate_limit_section },
};

static bool group_validate(const void *object, const char *path, GError **error)
{
    const KumoRateLimitGroupConfig *group = object;

    if (group->id)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s.id: the id of the group is missing",
                path);
    return false;
}

const KumoSection kumo_rate_limit_group_section = {
    .option = "rate-limit-group",
    .fields = group_fields,
    .n_fields = G_N_ELEMENTS(group_fields),
    .size = sizeof(KumoRateLimitGroupConfig),
    .validate = group_validate,
};
