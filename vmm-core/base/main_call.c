/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/main_call.h"

#include <stdatomic.h>

typedef struct {
    GSource base;
    KumoMainCalls *calls;
} CallSource;

struct KumoMainCalls {
    GSource *source;
    GMutex lock;
    GCond changed; /* there is a call, or it was run */
    void (*func)(void *opaque);
    void *opaque;
    bool last;
    _Atomic bool pending; /* written under lock */
};

/* Returns: whether it was the last; @calls may be gone then. */
static bool take_call(KumoMainCalls *calls)
{
    void (*func)(void *opaque) = calls->func;
    void *opaque = calls->opaque;

    if (calls->last) {
        g_mutex_lock(&calls->lock); /* its owner has let it go */
        atomic_store(&calls->pending, false);
        g_mutex_unlock(&calls->lock);
        func(opaque);
        return true;
    }
    func(opaque);
    g_mutex_lock(&calls->lock);
    atomic_store(&calls->pending, false);
    g_cond_broadcast(&calls->changed);
    g_mutex_unlock(&calls->lock);
    return false;
}

static gboolean source_check(GSource *base)
{
    return atomic_load(&((CallSource *)base)->calls->pending);
}

static gboolean source_prepare(GSource *base, int *timeout)
{
    *timeout = -1;
    return source_check(base);
}

static gboolean source_dispatch(GSource *base, GSourceFunc callback, gpointer user_data)
{
    return take_call(((CallSource *)base)->calls) ? G_SOURCE_REMOVE : G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = {
    .prepare = source_prepare,
    .check = source_check,
    .dispatch = source_dispatch,
};

KumoMainCalls *kumo_main_calls_new(void)
{
    KumoMainCalls *calls = g_new0(KumoMainCalls, 1);

    g_mutex_init(&calls->lock);
    g_cond_init(&calls->changed);
    calls->source = g_source_new(&source_funcs, sizeof(CallSource));
    ((CallSource *)calls->source)->calls = calls;
    g_source_attach(calls->source, NULL);
    return calls;
}

void kumo_main_calls_free(KumoMainCalls *calls)
{
    if (!calls)
        return;
    g_source_destroy(calls->source);
    g_source_unref(calls->source);
    g_mutex_clear(&calls->lock);
    g_cond_clear(&calls->changed);
    g_free(calls);
}

/* Under lock. */
static void post(KumoMainCalls *calls, void (*func)(void *opaque), void *opaque, bool last)
{
    calls->func = func;
    calls->opaque = opaque;
    calls->last = last;
    atomic_store(&calls->pending, true);
    g_cond_broadcast(&calls->changed);
    g_main_context_wakeup(NULL);
}

void kumo_main_calls_run(KumoMainCalls *calls, void (*func)(void *opaque), void *opaque)
{
    g_mutex_lock(&calls->lock);
    post(calls, func, opaque, false);
    while (atomic_load(&calls->pending))
        g_cond_wait(&calls->changed, &calls->lock);
    g_mutex_unlock(&calls->lock);
}

void kumo_main_calls_finish(KumoMainCalls *calls, void (*func)(void *opaque), void *opaque)
{
    g_mutex_lock(&calls->lock);
    post(calls, func, opaque, true);
    g_mutex_unlock(&calls->lock);
}

void kumo_main_calls_wait(KumoMainCalls *calls)
{
    do {
        g_mutex_lock(&calls->lock);
        while (!atomic_load(&calls->pending))
            g_cond_wait(&calls->changed, &calls->lock);
        g_mutex_unlock(&calls->lock);
    } while (!take_call(calls));
}
