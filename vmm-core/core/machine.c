/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/machine.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"

enum { PLATFORM_PAGE = 4096 };

/* ACPI 6.4, 6.3.5, tables 6.69 and following. */
enum {
    OST_BUS_CHECK = 0x0,
    OST_DEVICE_CHECK = 0x1,
    OST_EJECT_REQUEST = 0x3,
    OST_EJECTION = 0x103,
    OST_INSERTION = 0x200,

    OST_SUCCESS = 0x0,
    OST_INSERTION_PENDING = 0x80,
    OST_EJECTION_PENDING = 0x84,
};

void kumo_machine_request(KumoMachine *machine, KumoMachineRequest request)
{
    if (machine->request)
        machine->request(machine->request_opaque, request);
}

KumoAcpiOst kumo_acpi_ost(uint32_t event, uint32_t status)
{
    if (status == OST_SUCCESS)
        return KUMO_ACPI_OST_OTHER;
    switch (event) {
    case OST_EJECT_REQUEST:
    case OST_EJECTION:
        return status == OST_EJECTION_PENDING ? KUMO_ACPI_OST_OTHER : KUMO_ACPI_OST_NOT_LET_GO;
    case OST_BUS_CHECK:
    case OST_DEVICE_CHECK:
    case OST_INSERTION:
        return status == OST_INSERTION_PENDING ? KUMO_ACPI_OST_OTHER : KUMO_ACPI_OST_NOT_TAKEN;
    default:
        return KUMO_ACPI_OST_OTHER;
    }
}

void kumo_machine_guest_refused(KumoMachine *machine, KumoAcpiOst what, const char *id,
                                const char *bdf, uint32_t status)
{
    kumo_machine_event_full(
        machine, "vm",
        what == KUMO_ACPI_OST_NOT_TAKEN ? "device-insertion-failed" : "device-removal-failed",
        json_pack("{s:s, s:s*, s:I}", "id", id, "bdf", bdf, "status", (json_int_t)status));
}

void kumo_machine_event(KumoMachine *machine, const char *source, const char *event, const char *id)
{
    kumo_machine_event_full(machine, source, event, json_pack("{s:s}", "id", id));
}

void kumo_machine_event_full(KumoMachine *machine, const char *source, const char *event,
                             json_t *properties)
{
    if (machine->event)
        machine->event(source, event, properties);
    else
        json_decref(properties);
}

bool kumo_machine_alloc_platform_mmio(KumoMachine *machine, uint64_t size, uint64_t *ret_gpa,
                                      GError **error)
{
    const KumoMachineLayout *layout = &machine->layout;
    uint64_t top = layout->platform_mmio_base + layout->platform_mmio_size;

    g_return_val_if_fail(size > 0 && size <= PLATFORM_PAGE, false);
    if (machine->platform_mmio_next == 0)
        machine->platform_mmio_next = kumo_align_down(top, PLATFORM_PAGE);
    if (machine->platform_mmio_next < layout->platform_mmio_base + PLATFORM_PAGE) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_RESOURCE,
                    "the %" G_GUINT64_FORMAT " bytes of platform register space are used up",
                    layout->platform_mmio_size);
        return false;
    }
    machine->platform_mmio_next -= PLATFORM_PAGE;
    *ret_gpa = machine->platform_mmio_next;
    return true;
}

static const KumoSyscall device_calls[] = {
    { KUMO_SYSCALL(eventfd2) },
    { KUMO_SYSCALL(epoll_ctl) },
    { KUMO_SYSCALL(timerfd_settime) },
    /* What the guest writes to a console whose reader keeps up. */
    { KUMO_SYSCALL(sendto) },
    { KUMO_SYSCALL(writev) },
    { KUMO_SYSCALL(poll) },
    /* A disk's way from write-back to write-through. */
    { KUMO_SYSCALL(fdatasync) },
    /* A network device's reset and its control queue. */
    { KUMO_IOCTL(TUNSETOFFLOAD) },
    { KUMO_IOCTL(TUNSETQUEUE) },
    { KUMO_IOCTL(SIOCGIFMTU) },
};

const KumoSyscallTable kumo_device_syscalls = KUMO_SYSCALL_TABLE(device_calls);

static const KumoSyscall slow_calls[] = {
    { KUMO_SYSCALL(readv) }, /* the source of random numbers */
    /* Memory that the guest gives back by the balloon or virtio-mem. */
    { KUMO_SYSCALL_IF(fallocate, 1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) },
};

static const KumoSyscallTable slow_table = KUMO_SYSCALL_TABLE(slow_calls);
static const KumoSyscallTable *const slow_tables[] = { &kumo_loop_syscalls, &kumo_device_syscalls,
                                                       &slow_table, NULL };

const KumoThreadKind kumo_slow_thread = {
    .name = "slow-devices",
    .roles = KUMO_THREAD_HAS_DEVICES,
    .tables = slow_tables,
};

KumoLoop *kumo_machine_slow_loop(KumoMachine *machine, GError **error)
{
    if (!machine->slow_loop)
        machine->slow_loop = kumo_loop_new("slow-devices", &kumo_slow_thread, error);
    return machine->slow_loop;
}
