/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/main/threads.h"

#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/prctl.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>

#include "vmm-core/core/machine.h"
#include "vmm-core/core/memory_map.h"
#include "vmm-core/core/userfault.h"
#include "vmm-core/core/vcpu.h"
#include "vmm-core/devices/block/blk_queue.h"
#include "vmm-core/devices/console/backend.h"
#include "vmm-core/devices/net/net_queue.h"
#include "vmm-core/vmm/vmm_migration.h"

/* The API, the state machine, and building machines with all that their devices open; D-Bus too. */
static const KumoSyscall main_calls[] = {
    /* The main loop. */
    { KUMO_SYSCALL(poll) },
    { KUMO_SYSCALL(ppoll) },
    { KUMO_SYSCALL(epoll_create1) },
    { KUMO_SYSCALL(epoll_ctl) },
    { KUMO_SYSCALL(eventfd2) },
    { KUMO_SYSCALL(timerfd_create) },
    { KUMO_SYSCALL(timerfd_settime) },
    { KUMO_SYSCALL(signalfd4) },
    /* Files: of the configuration, snapshots, core dumps. */
    { KUMO_SYSCALL(access) },
    { KUMO_SYSCALL(faccessat) },
    { KUMO_SYSCALL(faccessat2) },
    { KUMO_SYSCALL(open) },
    { KUMO_SYSCALL(openat) },
    { KUMO_SYSCALL(stat) },
    { KUMO_SYSCALL(lstat) },
    { KUMO_SYSCALL(fstat) },
    { KUMO_SYSCALL(statx) },
    { KUMO_SYSCALL(newfstatat) },
    { KUMO_SYSCALL(statfs) },
    { KUMO_SYSCALL(fstatfs) },
    { KUMO_SYSCALL(readlink) },
    { KUMO_SYSCALL(readlinkat) },
    { KUMO_SYSCALL(getdents64) },
    { KUMO_SYSCALL(getcwd) },
    { KUMO_SYSCALL(lseek) },
    { KUMO_SYSCALL(readv) },
    { KUMO_SYSCALL(writev) },
    { KUMO_SYSCALL(pread64) },
    { KUMO_SYSCALL(preadv) },
    { KUMO_SYSCALL(pwrite64) },
    { KUMO_SYSCALL(pwritev) },
    { KUMO_SYSCALL(sendfile) },
    { KUMO_SYSCALL(copy_file_range) },
    { KUMO_SYSCALL(fallocate) },
    { KUMO_SYSCALL(ftruncate) },
    { KUMO_SYSCALL(fadvise64) },
    { KUMO_SYSCALL(fsync) },
    { KUMO_SYSCALL(fdatasync) },
    { KUMO_SYSCALL(unlink) },
    { KUMO_SYSCALL(unlinkat) },
    { KUMO_SYSCALL(rename) },
    { KUMO_SYSCALL(renameat) },
    { KUMO_SYSCALL(mkdir) },
    { KUMO_SYSCALL(mkdirat) },
    { KUMO_SYSCALL(rmdir) },
    { KUMO_SYSCALL(fchmod) },
    { KUMO_SYSCALL(umask) },
    { KUMO_SYSCALL(fcntl) },
    { KUMO_SYSCALL(dup) },
    { KUMO_SYSCALL(dup2) },
    { KUMO_SYSCALL(dup3) },
    { KUMO_SYSCALL(pipe2) },
    { KUMO_SYSCALL(memfd_create) },
    { KUMO_SYSCALL(landlock_create_ruleset) },
    { KUMO_SYSCALL(landlock_add_rule) },
    /* Sockets: the API's, consoles', migrations', those that set up network interfaces. */
    { KUMO_SYSCALL_IF(socket, 0, AF_UNIX) },
    { KUMO_SYSCALL_IF(socket, 0, AF_INET) },
    { KUMO_SYSCALL_IF(socket, 0, AF_INET6) },
    { KUMO_SYSCALL(socketpair) },
    { KUMO_SYSCALL(bind) },
    { KUMO_SYSCALL(listen) },
    { KUMO_SYSCALL(accept4) },
    { KUMO_SYSCALL(connect) },
    { KUMO_SYSCALL(shutdown) },
    { KUMO_SYSCALL(recvfrom) },
    { KUMO_SYSCALL(recvmsg) },
    { KUMO_SYSCALL(sendto) },
    { KUMO_SYSCALL(sendmsg) },
    { KUMO_SYSCALL(getsockname) },
    { KUMO_SYSCALL(getpeername) },
    { KUMO_SYSCALL(getsockopt) },
    { KUMO_SYSCALL(setsockopt) },
    /* Memory: files, huge pages, NUMA nodes; libraries that load modules. */
    { KUMO_SYSCALL(mmap) },
    { KUMO_SYSCALL(mprotect) },
    { KUMO_SYSCALL(mbind) },
    { KUMO_SYSCALL(mincore) },
    { KUMO_SYSCALL(mlock) },
    { KUMO_SYSCALL(munlock) },
    { KUMO_SYSCALL(msync) },
    { KUMO_SYSCALL(userfaultfd) },
    { KUMO_IOCTL(USERFAULTFD_IOC_NEW) },
    { KUMO_IOCTL(UFFDIO_API) },
    { KUMO_IOCTL(UFFDIO_REGISTER) },
    /* Threads and the process. */
    { KUMO_SYSCALL(sched_setaffinity) },
    { KUMO_SYSCALL(sched_setscheduler) },
    { KUMO_SYSCALL(sched_getscheduler) },
    { KUMO_SYSCALL(sched_getparam) },
    { KUMO_SYSCALL(sched_getattr) },
    { KUMO_SYSCALL(sched_setattr) },
    { KUMO_SYSCALL(membarrier) },
    { KUMO_SYSCALL_IF(prctl, 0, PR_SCHED_CORE) },
    { KUMO_SYSCALL(prlimit64) },
    { KUMO_SYSCALL(getppid) },
    { KUMO_SYSCALL(getpgrp) },
    { KUMO_SYSCALL(getuid) },
    { KUMO_SYSCALL(geteuid) },
    { KUMO_SYSCALL(getgid) },
    { KUMO_SYSCALL(getegid) },
    { KUMO_SYSCALL(uname) },
    { KUMO_SYSCALL(sysinfo) },
    { KUMO_SYSCALL(getrusage) },
    /* Terminals. */
    { KUMO_IOCTL(TCGETS) },
    { KUMO_IOCTL(TCSETS) },
    { KUMO_IOCTL(TIOCGPGRP) },
    { KUMO_IOCTL(TIOCGPTN) },
    { KUMO_IOCTL(TIOCGPTPEER) },
    { KUMO_IOCTL(TIOCGWINSZ) },
    { KUMO_IOCTL(TIOCSPTLCK) },
    { KUMO_IOCTL(FIONREAD) },
    /* Disks: what their workers are given. */
    { KUMO_SYSCALL(io_uring_setup) },
    { KUMO_SYSCALL(io_uring_register) },
    { KUMO_SYSCALL(io_setup) },
    { KUMO_SYSCALL(io_destroy) },
    /* Block devices. */
    { KUMO_IOCTL(BLKALIGNOFF) },
    { KUMO_IOCTL(BLKGETSIZE64) },
    { KUMO_IOCTL(BLKIOMIN) },
    { KUMO_IOCTL(BLKIOOPT) },
    { KUMO_IOCTL(BLKPBSZGET) },
    { KUMO_IOCTL(BLKSSZGET) },
    /* Network interfaces. */
    { KUMO_IOCTL(TUNGETIFF) },
    { KUMO_IOCTL(TUNSETIFF) },
    { KUMO_IOCTL(TUNSETOFFLOAD) },
    { KUMO_IOCTL(TUNSETQUEUE) },
    { KUMO_IOCTL(TUNSETVNETHDRSZ) },
    { KUMO_IOCTL(TUNSETVNETLE) },
    { KUMO_IOCTL(SIOCGIFFLAGS) },
    { KUMO_IOCTL(SIOCGIFINDEX) },
    { KUMO_IOCTL(SIOCGIFMTU) },
    { KUMO_IOCTL(SIOCSIFADDR) },
    { KUMO_IOCTL(SIOCSIFFLAGS) },
    { KUMO_IOCTL(SIOCSIFHWADDR) },
    { KUMO_IOCTL(SIOCSIFMTU) },
    { KUMO_IOCTL(SIOCSIFNETMASK) },
};

static const KumoSyscallTable main_table = KUMO_SYSCALL_TABLE(main_calls);
static const KumoSyscallTable *const main_tables[] = { &main_table, NULL };

const KumoThreadKind kumo_main_thread = {
    .name = "main",
    .tables = main_tables,
};

const KumoThreadKind *const kumo_thread_kinds[] = {
    &kumo_vcpu_thread,      &kumo_blk_thread,       &kumo_net_thread,
    &kumo_slow_thread,      &kumo_console_thread,   &kumo_prefault_thread,
    &kumo_migration_thread, &kumo_userfault_thread, NULL,
};
