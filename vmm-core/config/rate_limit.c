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

static const KumoField limit_fields[] = {
    { .json = "bandwidth",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoRateLimit, bandwidth),
      .section = &bucket_section,
      .present_offset = offsetof(KumoRateLimit, has_bandwidth) },
    { .json = "ops",
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoRateLimit, ops),
      .section = &bucket_section,
      .present_offset = offsetof(KumoRateLimit, has_ops) },
};

static bool bucket_is_given(const KumoRateBucket *bucket)
{
    return bucket->size || bucket->one_time_burst || bucket->refill_time_ms;
}

static void limit_finish(void *object)
{
    KumoRateLimit *limit = object;

    limit->has_bandwidth = limit->has_bandwidth || bucket_is_given(&limit->bandwidth);
    limit->has_ops = limit->has_ops || bucket_is_given(&limit->ops);
}

static const KumoSection limit_section = {
    .fields = limit_fields,
    .n_fields = G_N_ELEMENTS(limit_fields),
    .size = sizeof(KumoRateLimit),
    .finish = limit_finish,
};

static const KumoField rate_limit_fields[] = {
    { .json = "rate_limiter_config",
      .host = true,
      .type = KUMO_FIELD_SECTION,
      .offset = offsetof(KumoRateLimitConfig, limit),
      .section = &limit_section,
      .present_offset = offsetof(KumoRateLimitConfig, has_limit) },
    { .cli = "bw_size",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoRateLimitConfig, limit.bandwidth.size) },
    { .cli = "bw_one_time_burst",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoRateLimitConfig, limit.bandwidth.one_time_burst) },
    { .cli = "bw_refill_time",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoRateLimitConfig, limit.bandwidth.refill_time_ms),
      .max = KUMO_RATE_REFILL_MAX_MS },
    { .cli = "ops_size",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoRateLimitConfig, limit.ops.size) },
    { .cli = "ops_one_time_burst",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoRateLimitConfig, limit.ops.one_time_burst) },
    { .cli = "ops_refill_time",
      .type = KUMO_FIELD_SIZE,
      .offset = offsetof(KumoRateLimitConfig, limit.ops.refill_time_ms),
      .max = KUMO_RATE_REFILL_MAX_MS },
};

static void rate_limit_finish(void *object)
{
    KumoRateLimitConfig *rate = object;

    rate->has_limit = rate->has_limit || rate->limit.has_bandwidth || rate->limit.has_ops;
}

const KumoSection kumo_rate_limit_section = {
    .fields = rate_limit_fields,
    .n_fields = G_N_ELEMENTS(rate_limit_fields),
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
      .section = &kumo_rate_limit_section },
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
