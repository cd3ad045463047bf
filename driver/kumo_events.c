/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_events.h"

#include <fcntl.h>
#include <glib-unix.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virfile.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_events");

/* More than this without one whole event is not an event stream. */
#define KUMO_EVENTS_MAX_BUFFER (64 * 1024)

struct _kumoEvents {
    gint refs;   /* atomic: one of the owner, of the thread and of each source */
    gint closed; /* atomic */
    virDomainObj *vm;
    const kumoEventHandlers *handlers;
    GMainContext *context;
    GSource *fifoSource;
    GSource *exitSource;
    GString *buffer; /* of the event thread alone */
    int fifo;
};

static void kumoEventsUnref(void *opaque)
{
    kumoEvents *events = opaque;

    if (!g_atomic_int_dec_and_test(&events->refs))
        return;
    VIR_FORCE_CLOSE(events->fifo);
    g_string_free(events->buffer, TRUE);
    g_clear_pointer(&events->context, g_main_context_unref);
    virObjectUnref(events->vm);
    g_free(events);
}

static kumoEvents *kumoEventsRef(kumoEvents *events)
{
    g_atomic_int_inc(&events->refs);
    return events;
}

int kumoEventsMakeFifo(const char *path)
{
    int fd;

    if (unlink(path) < 0 && errno != ENOENT) {
        virReportSystemError(errno, _("cannot remove %s"), path);
        return -1;
    }
    if (mkfifo(path, S_IRUSR | S_IWUSR) < 0 ||
        (fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0) {
        virReportSystemError(errno, _("cannot create the FIFO %s"), path);
        return -1;
    }
    return fd;
}

/* What is no number counts as 0: the VMM may have been taken over by its guest. */
static unsigned long long kumoEventsNumber(const json_t *properties, const char *name)
{
    json_int_t number = json_integer_value(json_object_get(properties, name));

    return number > 0 ? (unsigned long long)number : 0;
}

/* Returns false if the @len bytes at @text are not an event. */
static bool kumoEventsParseOne(const char *text, size_t len, kumoEventFunc func, void *opaque)
{
    json_t *object = json_loadb(text, len, 0, NULL);
    const json_t *properties = json_object_get(object, "properties");
    const json_t *id = json_object_get(properties, "id");
    kumoEvent event = {
        .source = json_string_value(json_object_get(object, "source")),
        .event = json_string_value(json_object_get(object, "event")),
        .id = json_string_value(id),
        .number = json_is_integer(id) ? json_integer_value(id) : -1,
        .error = json_string_value(json_object_get(properties, "error")),
        .threshold = kumoEventsNumber(properties, "threshold"),
        .excess = kumoEventsNumber(properties, "excess"),
    };
    bool valid = event.source && event.event;

    if (valid)
        func(&event, opaque);
    json_decref(object);
    return valid;
}

unsigned int kumoEventsParse(GString *buffer, kumoEventFunc func, void *opaque)
{
    unsigned int garbage = 0;
    size_t used = 0;
    char *end;

    while ((end = memmem(buffer->str + used, buffer->len - used, "\n\n", 2))) {
        size_t len = (size_t)(end - buffer->str) - used;

        if (len > 0 && !kumoEventsParseOne(buffer->str + used, len, func, opaque))
            garbage++;
        used += len + 2;
    }
    g_string_erase(buffer, 0, (gssize)used);
    if (buffer->len > KUMO_EVENTS_MAX_BUFFER) {
        garbage++;
        g_string_truncate(buffer, 0);
    }
    return garbage;
}

static void kumoEventsDispatch(const kumoEvent *event, void *opaque)
{
    kumoEvents *events = opaque;
    virDomainObj *vm = events->vm;
    kumoDomainObjPrivate *priv = vm->privateData;

    VIR_DEBUG("%s/%s", event->source, event->event);
    virObjectLock(vm);
    /* A later run of the same domain has a reader of its own. */
    if (priv->events == events)
        events->handlers->event(vm, event);
    virObjectUnlock(vm);
}

/* Reads what is there and handles it. */
static void kumoEventsDrain(kumoEvents *events)
{
    char buf[4096];
    ssize_t n;

    while (!g_atomic_int_get(&events->closed) &&
           ((n = read(events->fifo, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR))) {
        unsigned int garbage;

        if (n < 0)
            continue;
        g_string_append_len(events->buffer, buf, n);
        if ((garbage = kumoEventsParse(events->buffer, kumoEventsDispatch, events)) > 0)
            VIR_WARN("%u unreadable pieces in an event stream", garbage);
    }
}

static gboolean kumoEventsReadable(gint fd G_GNUC_UNUSED, GIOCondition condition G_GNUC_UNUSED,
                                   void *opaque)
{
    kumoEvents *events = opaque;

    kumoEventsDrain(events);
    return g_atomic_int_get(&events->closed) ? G_SOURCE_REMOVE : G_SOURCE_CONTINUE;
}

static gboolean kumoEventsProcessEnded(gint fd G_GNUC_UNUSED, GIOCondition condition G_GNUC_UNUSED,
                                       void *opaque)
{
    kumoEvents *events = opaque;
    virDomainObj *vm = events->vm;
    kumoDomainObjPrivate *priv = vm->privateData;

    /* The last words come first: they tell why. */
    kumoEventsDrain(events);

    virObjectLock(vm);
    if (priv->events == events)
        events->handlers->processEnded(vm);
    virObjectUnlock(vm);
    return G_SOURCE_REMOVE;
}

static GSource *kumoEventsAttach(kumoEvents *events, int fd, GUnixFDSourceFunc func)
{
    GSource *source = g_unix_fd_source_new(fd, G_IO_IN | G_IO_HUP | G_IO_ERR);

    g_source_set_callback(source, G_SOURCE_FUNC(func), kumoEventsRef(events), kumoEventsUnref);
    g_source_attach(source, events->context);
    return source;
}

/*
 * Nobody waits for this thread: whoever closes the reader holds the domain's lock, for which the
 * thread may be waiting.
 */
static void *kumoEventsRun(void *opaque)
{
    kumoEvents *events = opaque;

    while (!g_atomic_int_get(&events->closed))
        g_main_context_iteration(events->context, TRUE);
    kumoEventsUnref(events);
    return NULL;
}

kumoEvents *kumoEventsNew(virDomainObj *vm, const char *fifo, int pidfd,
                          const kumoEventHandlers *handlers)
{
    kumoEvents *events = g_new0(kumoEvents, 1);
    g_autofree char *name = g_strdup_printf("ev-%s", vm->def->name);
    g_autoptr(GError) error = NULL;
    GThread *thread;

    events->refs = 1;
    events->vm = virObjectRef(vm);
    events->handlers = handlers;
    events->buffer = g_string_new(NULL);
    if ((events->fifo = open(fifo, O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0) {
        virReportSystemError(errno, _("cannot open the event stream %s"), fifo);
        kumoEventsUnref(events);
        return NULL;
    }
    events->context = g_main_context_new();
    events->fifoSource = kumoEventsAttach(events, events->fifo, kumoEventsReadable);
    events->exitSource = kumoEventsAttach(events, pidfd, kumoEventsProcessEnded);

    if (!(thread = g_thread_try_new(name, kumoEventsRun, kumoEventsRef(events), &error))) {
        virReportError(VIR_ERR_INTERNAL_ERROR, _("no thread for the events of domain %s: %s"),
                       vm->def->name, error->message);
        kumoEventsUnref(events);
        kumoEventsClose(events);
        return NULL;
    }
    g_thread_unref(thread);
    return events;
}

void kumoEventsClose(kumoEvents *events)
{
    if (!events)
        return;

    g_atomic_int_set(&events->closed, 1);
    g_source_destroy(events->fifoSource);
    g_source_destroy(events->exitSource);
    g_clear_pointer(&events->fifoSource, g_source_unref);
    g_clear_pointer(&events->exitSource, g_source_unref);
    g_main_context_wakeup(events->context);
    kumoEventsUnref(events);
}
