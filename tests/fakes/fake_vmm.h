/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VMM for tests over the fake hypervisor: an architecture whose guests have nothing but their
 * memory from 0 on, and what tests of the VMM say again and again.
 */
#pragma once

#include "tests/fakes/fake_hv.h"
#include "vmm-core/core/arch.h"
#include "vmm-core/vmm/vmm.h"

/* The parts of fake_arch_ops, for a test that changes some of them. APIC ids are even. */
bool fake_arch_layout(KumoHv *hv, const KumoVmConfig *config, KumoMachineLayout *ret_layout,
                      KumoMemRange *ret_ranges, unsigned *ret_n_ranges, GError **error);
uint32_t fake_arch_apic_id(const KumoVmConfig *config, uint32_t index);
bool fake_arch_load(KumoMachine *machine, KumoArchEntry *ret_entry, GError **error);
bool fake_arch_setup_vcpu(KumoMachine *machine, KumoHvVcpu *vcpu, const KumoArchEntry *entry,
                          GError **error);

extern const KumoArchOps fake_arch_ops;

/* A VMM that stays when its guest ends. Free with kumo_vmm_free(). */
KumoVmm *fake_vmm_new(const KumoArchOps *arch, const KumoDeviceType *const *device_types,
                      void (*event)(const char *source, const char *event, json_t *properties));

/* A configuration with @ram_bytes of memory and as many vCPUs as said. */
KumoVmConfig *fake_vmm_config_new(uint64_t ram_bytes, unsigned boot_vcpus, unsigned max_vcpus);

/* What @string, a GString, gathered since it was looked at last. */
#define assert_seen(string, expected)                                                              \
    do {                                                                                           \
        g_assert_cmpstr((string)->str, ==, expected);                                              \
        g_string_truncate((string), 0);                                                            \
    } while (0)

/* That @expression, which sets the variable error, fails with @code. */
#define assert_refused(expression, code)                                                           \
    do {                                                                                           \
        g_autoptr(GError) error_ = NULL;                                                           \
        GError **error = &error_;                                                                  \
        g_assert_false(expression);                                                                \
        g_assert_error(error_, KUMO_ERROR, code);                                                  \
    } while (0)

#define assert_done(expression)                                                                    \
    do {                                                                                           \
        g_autoptr(GError) error_ = NULL;                                                           \
        GError **error = &error_;                                                                  \
        g_assert_true(expression);                                                                 \
        g_assert_no_error(error_);                                                                 \
    } while (0)
