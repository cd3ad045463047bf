/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All kinds of threads of the process, for the system call filter. */
#pragma once

#include "vmm-core/base/sandbox.h"

extern const KumoThreadKind kumo_main_thread;

/* NULL-terminated: the others. Threads that libraries start have the main thread's filter. */
extern const KumoThreadKind *const kumo_thread_kinds[];

/* Of all of them, for each mode; made by sandbox_compile.c when kumo is built. */
extern const KumoSandboxProgram kumo_sandbox_programs[];
