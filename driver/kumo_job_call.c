/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_job_call.h"

#include "viridentity.h"
#include "virthread.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_job_call");

/* Calls that were left alone and have not come back: each has a thread and a connection. */
#define KUMO_CALLS_LEFT_MAX 64

static int kumoCallsLeft; /* atomic */

struct _kumoJobCall {
    virMutex lock; /* below the domain's */
    virCond changed;
    bool awake; /* the domain is to be looked at */
    bool done;
    bool left; /* nobody waits for it any more */
    int rc;
    virErrorPtr error;

    int (*work)(void *box);
    void *box;
    GDestroyNotify clear;
    virIdentity *identity; /* of who asked for it */
};

static void kumoJobCallClear(void *opaque)
{
    kumoJobCall *call = opaque;

    g_atomic_rc_box_release_full(call->box, call->clear);
    g_clear_object(&call->identity);
    virFreeError(call->error);
    virCondDestroy(&call->changed);
    virMutexDestroy(&call->lock);
}

static void kumoJobCallRelease(kumoJobCall *call)
{
    g_atomic_rc_box_release_full(call, kumoJobCallClear);
}

static kumoJobCall *kumoJobCallNew(int (*work)(void *box), void *box, GDestroyNotify clear)
{
    kumoJobCall *call = g_atomic_rc_box_new0(kumoJobCall);

    if (virMutexInit(&call->lock) < 0) {
        virReportSystemError(errno, "%s", _("cannot initialize a mutex"));
        g_atomic_rc_box_release(call);
        return NULL;
    }
    if (virCondInit(&call->changed) < 0) {
        virReportSystemError(errno, "%s", _("cannot initialize a condition"));
        virMutexDestroy(&call->lock);
        g_atomic_rc_box_release(call);
        return NULL;
    }
    call->work = work;
    call->box = g_atomic_rc_box_acquire(box);
    call->clear = clear;
    call->identity = virIdentityGetCurrent();
    return call;
}

static void kumoJobCallThread(void *opaque)
{
    kumoJobCall *call = opaque;
    virErrorPtr error = NULL;
    bool left;
    int rc;

    if (call->identity && virIdentitySetCurrent(call->identity) < 0)
        virResetLastError(); /* it is asked for by nobody in particular then */
    rc = call->work(call->box);
    virErrorPreserveLast(&error);

    virMutexLock(&call->lock);
    call->done = true;
    call->rc = rc;
    call->error = error;
    left = call->left;
    virCondSignal(&call->changed);
    virMutexUnlock(&call->lock);

    /* The last one closes what the call has opened, which may take its time, too. */
    kumoJobCallRelease(call);
    if (left)
        g_atomic_int_add(&kumoCallsLeft, -1);
}

/* Returns: whether the domain is to be looked at, and waiting may go on. */
static bool kumoJobCallWait(kumoJobCall *call, unsigned long long endMs)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&call->lock);

    while (!call->done && !call->awake) {
        if ((endMs ? virCondWaitUntil(&call->changed, &call->lock, endMs)
                   : virCondWait(&call->changed, &call->lock)) < 0)
            return false;
    }
    call->awake = false;
    return !call->done;
}

/* Returns: whether the call has come back; if not, it is left alone. */
static bool kumoJobCallConclude(kumoJobCall *call)
{
    VIR_LOCK_GUARD lock = virLockGuardLock(&call->lock);

    if (!call->done) {
        call->left = true;
        g_atomic_int_add(&kumoCallsLeft, 1);
    }
    return call->done;
}

/* Why the call is not waited for any more. */
static void kumoJobCallReport(const virDomainObj *vm, int id, unsigned long long timeoutMs)
{
    if (vm->def->id != id)
        virReportError(VIR_ERR_OPERATION_FAILED, _("domain '%s' ended meanwhile"), vm->def->name);
    else if (vm->job->abortJob)
        virReportError(VIR_ERR_OPERATION_ABORTED,
                       _("the job of domain '%s' was cancelled by a client"), vm->def->name);
    else
        virReportError(VIR_ERR_OPERATION_TIMEOUT, _("there is no answer for %llu s"),
                       timeoutMs / 1000);
}

/* Waits until @call has come back, or is not to be waited for any more. */
static void kumoJobCallAwait(virDomainObj *vm, kumoJobCall *call, int id, unsigned long long endMs,
                             kumoJobCallPatience patience)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    bool counts = patience == KUMO_CALL_UNLESS_ABORTED;
    bool again;

    priv->call = call;
    do {
        if (vm->def->id != id || (counts && vm->job->abortJob))
            break;
        /* Who wakes us has just aborted it, or seen the domain's end. */
        counts = patience != KUMO_CALL_TO_ITS_END;
        virObjectUnlock(vm);
        again = kumoJobCallWait(call, endMs);
        virObjectLock(vm);
    } while (again);
    priv->call = NULL;
}

int kumoJobCallRun(virDomainObj *vm, int (*work)(void *box), void **box, GDestroyNotify clear,
                   unsigned long long timeoutMs, kumoJobCallPatience patience)
{
    const int id = vm->def->id;
    unsigned long long now = 0;
    kumoJobCall *call;
    virThread thread;
    int rc = -1;

    if (g_atomic_int_get(&kumoCallsLeft) >= KUMO_CALLS_LEFT_MAX) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("%d calls to other daemons have not been answered yet"),
                       g_atomic_int_get(&kumoCallsLeft));
        return -1;
    }
    if ((timeoutMs && virTimeMillisNow(&now) < 0) || !(call = kumoJobCallNew(work, *box, clear)))
        return -1;
    if (virThreadCreateFull(&thread, false, kumoJobCallThread, "kumo-peer", false,
                            g_atomic_rc_box_acquire(call)) < 0) {
        virReportSystemError(errno, "%s", _("cannot create a thread"));
        kumoJobCallRelease(call);
        kumoJobCallRelease(call);
        return -1;
    }

    kumoJobCallAwait(vm, call, id, timeoutMs ? now + timeoutMs : 0, patience);
    if (kumoJobCallConclude(call)) {
        rc = call->rc;
        if (rc < 0)
            virErrorRestore(&call->error);
    } else {
        VIR_WARN("domain %s: a call to another daemon is left alone", vm->def->name);
        kumoJobCallReport(vm, id, timeoutMs);
        g_atomic_rc_box_release_full(g_steal_pointer(box), clear);
    }
    kumoJobCallRelease(call);
    return rc;
}

void kumoJobCallWake(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (!priv->call)
        return;
    virMutexLock(&priv->call->lock);
    priv->call->awake = true;
    virCondSignal(&priv->call->changed);
    virMutexUnlock(&priv->call->lock);
}
