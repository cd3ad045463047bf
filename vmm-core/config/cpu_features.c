/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bits: Intel SDM volume 2A, CPUID, and volume 4; AMD APM volume 3, appendix E. */
#include "vmm-core/config/cpu_features.h"

#include <glib.h>
#include <string.h>

/* clang-format off */
const KumoCpuFeatureWord kumo_cpu_feature_words[] = {
    { .leaf = 0x1, .reg = KUMO_CPUID_ECX,
      .names = { [0] = "pni", [1] = "pclmuldq", [2] = "dtes64", [3] = "monitor", [4] = "ds_cpl",
                [5] = "vmx", [6] = "smx", [7] = "est", [8] = "tm2", [9] = "ssse3", [10] = "cid",
                [12] = "fma", [13] = "cx16", [14] = "xtpr", [15] = "pdcm", [17] = "pcid",
                [18] = "dca", [19] = "sse4.1", [20] = "sse4.2", [21] = "x2apic", [22] = "movbe",
                [23] = "popcnt", [24] = "tsc-deadline", [25] = "aes", [26] = "xsave",
                [27] = "osxsave", [28] = "avx", [29] = "f16c", [30] = "rdrand",
                [31] = "hypervisor" } },
    { .leaf = 0x1, .reg = KUMO_CPUID_EDX,
      .names = { [0] = "fpu", [1] = "vme", [2] = "de", [3] = "pse", [4] = "tsc", [5] = "msr",
                [6] = "pae", [7] = "mce", [8] = "cx8", [9] = "apic", [11] = "sep", [12] = "mtrr",
                [13] = "pge", [14] = "mca", [15] = "cmov", [16] = "pat", [17] = "pse36",
                [18] = "pn", [19] = "clflush", [21] = "ds", [22] = "acpi", [23] = "mmx",
                [24] = "fxsr", [25] = "sse", [26] = "sse2", [27] = "ss", [28] = "ht",
                [29] = "tm", [30] = "ia64", [31] = "pbe" } },
    { .leaf = 0x6, .reg = KUMO_CPUID_EAX,
      .names = { [2] = "arat" } },
    { .leaf = 0x7, .subleaf = 0, .subleaf_matters = true, .reg = KUMO_CPUID_EBX,
      .names = { [0] = "fsgsbase", [1] = "tsc_adjust", [2] = "sgx", [3] = "bmi1", [4] = "hle",
                [5] = "avx2", [6] = "fdp-excptn-only", [7] = "smep", [8] = "bmi2", [9] = "erms", [10] = "invpcid",
                [11] = "rtm", [12] = "cmt", [13] = "zero-fcs-fds", [14] = "mpx", [16] = "avx512f", [17] = "avx512dq",
                [18] = "rdseed", [19] = "adx", [20] = "smap", [21] = "avx512ifma",
                [22] = "pcommit", [23] = "clflushopt", [24] = "clwb", [25] = "intel-pt",
                [26] = "avx512pf", [27] = "avx512er", [28] = "avx512cd", [29] = "sha-ni",
                [30] = "avx512bw", [31] = "avx512vl" } },
    { .leaf = 0x7, .subleaf = 0, .subleaf_matters = true, .reg = KUMO_CPUID_ECX,
      .names = { [1] = "avx512vbmi", [2] = "umip", [3] = "pku", [4] = "ospke", [5] = "waitpkg",
                [6] = "avx512vbmi2", [7] = "shstk", [8] = "gfni", [9] = "vaes",
                [10] = "vpclmulqdq", [11] = "avx512vnni", [12] = "avx512bitalg",
                [14] = "avx512-vpopcntdq", [16] = "la57", [22] = "rdpid",
                [24] = "bus-lock-detect", [25] = "cldemote", [27] = "movdiri",
                [28] = "movdir64b", [29] = "enqcmd", [30] = "sgxlc", [31] = "pks" } },
    { .leaf = 0x7, .subleaf = 0, .subleaf_matters = true, .reg = KUMO_CPUID_EDX,
      .names = { [2] = "avx512-4vnniw", [3] = "avx512-4fmaps", [4] = "fsrm", [5] = "uintr",
                [8] = "avx512-vp2intersect", [10] = "md-clear", [14] = "serialize",
                [15] = "hybrid", [16] = "tsx-ldtrk", [18] = "pconfig", [19] = "arch-lbr",
                [20] = "ibt", [22] = "amx-bf16", [23] = "avx512-fp16", [24] = "amx-tile",
                [25] = "amx-int8", [26] = "spec-ctrl", [27] = "stibp", [28] = "flush-l1d",
                [29] = "arch-capabilities", [30] = "core-capability", [31] = "ssbd" } },
    { .leaf = 0x7, .subleaf = 1, .subleaf_matters = true, .reg = KUMO_CPUID_EAX,
      .names = { [0] = "sha512", [1] = "sm3", [2] = "sm4", [4] = "avx-vnni", [5] = "avx512-bf16",
                [6] = "lass", [7] = "cmpccxadd", [10] = "fzrm", [11] = "fsrs", [12] = "fsrc",
                [17] = "fred", [18] = "lkgs", [19] = "wrmsrns", [21] = "amx-fp16",
                [23] = "avx-ifma", [26] = "lam" } },
    { .leaf = 0x7, .subleaf = 1, .subleaf_matters = true, .reg = KUMO_CPUID_EDX,
      .names = { [4] = "avx-vnni-int8", [5] = "avx-ne-convert", [8] = "amx-complex",
                [10] = "avx-vnni-int16", [14] = "prefetchiti", [19] = "avx10" } },
    { .leaf = 0x7, .subleaf = 2, .subleaf_matters = true, .reg = KUMO_CPUID_EDX,
      .names = { [0] = "intel-psfd", [1] = "ipred-ctrl", [2] = "rrsba-ctrl", [3] = "ddpd-u",
                [4] = "bhi-ctrl", [5] = "mcdt-no" } },
    { .leaf = 0xd, .subleaf = 1, .subleaf_matters = true, .reg = KUMO_CPUID_EAX,
      .names = { [0] = "xsaveopt", [1] = "xsavec", [2] = "xgetbv1", [3] = "xsaves", [4] = "xfd" } },
    { .leaf = 0xf, .subleaf = 1, .subleaf_matters = true, .reg = KUMO_CPUID_EDX,
      .names = { [1] = "mbm_total", [2] = "mbm_local" } },
    { .leaf = 0x12, .subleaf = 0, .subleaf_matters = true, .reg = KUMO_CPUID_EAX,
      .names = { [0] = "sgx1", [1] = "sgx2", [11] = "sgx-edeccssa" } },
    { .leaf = 0x12, .subleaf = 0, .subleaf_matters = true, .reg = KUMO_CPUID_EBX,
      .names = { [0] = "sgx-exinfo" } },
    { .leaf = 0x12, .subleaf = 1, .subleaf_matters = true, .reg = KUMO_CPUID_EAX,
      .names = { [1] = "sgx-debug", [2] = "sgx-mode64", [4] = "sgx-provisionkey",
                [5] = "sgx-tokenkey", [7] = "sgx-kss", [10] = "sgx-aex-notify" } },
    { .leaf = 0x14, .subleaf = 0, .subleaf_matters = true, .reg = KUMO_CPUID_ECX,
      .names = { [31] = "intel-pt-lip" } },
    { .leaf = 0x24, .subleaf = 0, .subleaf_matters = true, .reg = KUMO_CPUID_EBX,
      .names = { [16] = "avx10-128", [17] = "avx10-256", [18] = "avx10-512" } },
    { .leaf = 0x80000001, .reg = KUMO_CPUID_ECX,
      .names = { [0] = "lahf_lm", [1] = "cmp_legacy", [2] = "svm", [3] = "extapic",
                [4] = "cr8legacy", [5] = "abm", [6] = "sse4a", [7] = "misalignsse",
                [8] = "3dnowprefetch", [9] = "osvw", [10] = "ibs", [11] = "xop", [12] = "skinit",
                [13] = "wdt", [15] = "lwp", [16] = "fma4", [17] = "tce", [18] = "cvt16",
                [19] = "nodeid_msr", [21] = "tbm", [22] = "topoext", [23] = "perfctr_core",
                [24] = "perfctr_nb" } },
    { .leaf = 0x80000001, .reg = KUMO_CPUID_EDX,
      .names = { [11] = "syscall", [20] = "nx", [22] = "mmxext", [25] = "fxsr_opt",
                [26] = "pdpe1gb", [27] = "rdtscp", [29] = "lm", [30] = "3dnowext",
                [31] = "3dnow" } },
    { .leaf = 0x80000007, .reg = KUMO_CPUID_EBX,
      .names = { [0] = "overflow-recov", [1] = "succor" } },
    { .leaf = 0x80000007, .reg = KUMO_CPUID_EDX,
      .names = { [8] = "invtsc" } },
    { .leaf = 0x80000008, .reg = KUMO_CPUID_EBX,
      .names = { [0] = "clzero", [2] = "xsaveerptr", [9] = "wbnoinvd", [12] = "ibpb",
                [14] = "ibrs", [15] = "amd-stibp", [17] = "stibp-always-on", [24] = "amd-ssbd",
                [25] = "virt-ssbd", [26] = "amd-no-ssb", [28] = "amd-psfd", [29] = "btc-no",
                [30] = "ibpb-ret" } },
    { .leaf = 0x8000000a, .reg = KUMO_CPUID_EDX,
      .names = { [0] = "npt", [1] = "lbrv", [2] = "svm-lock", [3] = "nrip-save",
                [4] = "tsc-scale", [5] = "vmcb-clean", [6] = "flushbyasid",
                [7] = "decodeassists", [10] = "pause-filter", [12] = "pfthreshold",
                [13] = "avic", [15] = "v-vmsave-vmload", [16] = "vgif", [25] = "vnmi",
                [28] = "svme-addr-chk" } },
    { .leaf = 0x80000021, .reg = KUMO_CPUID_EAX,
      .names = { [0] = "no-nested-data-bp", [2] = "lfence-always-serializing",
                [6] = "null-sel-clr-base", [8] = "auto-ibrs", [20] = "prefetchi", [24] = "eraps", [27] = "sbpb",
                [28] = "ibpb-brtype", [29] = "srso-no", [30] = "srso-user-kernel-no" } },
    { .leaf = 0x80000022, .reg = KUMO_CPUID_EAX,
      .names = { [0] = "perfmon-v2" } },
    /* IA32_CORE_CAPABILITIES */
    { .leaf = 0xcf, .reg = KUMO_CPUID_MSR,
      .names = { [5] = "split-lock-detect" } },
    /* IA32_ARCH_CAPABILITIES */
    { .leaf = 0x10a, .reg = KUMO_CPUID_MSR,
      .names = { [0] = "rdctl-no", [1] = "ibrs-all", [2] = "rsba", [3] = "skip-l1dfl-vmentry",
                [4] = "ssb-no", [5] = "mds-no", [6] = "pschange-mc-no", [7] = "tsx-ctrl",
                [8] = "taa-no", [13] = "sbdr-ssdp-no", [14] = "fbsdp-no", [15] = "psdp-no",
                [17] = "fb-clear", [19] = "rrsba", [20] = "bhi-no", [24] = "pbrsb-no",
                [26] = "gds-no", [27] = "rfds-no", [28] = "rfds-clear" } },
};
/* clang-format on */

const unsigned kumo_n_cpu_feature_words = G_N_ELEMENTS(kumo_cpu_feature_words);

const KumoCpuFeatureWord *kumo_cpu_feature_find(const char *name, unsigned *ret_bit)
{
    for (unsigned i = 0; i < kumo_n_cpu_feature_words; i++) {
        const KumoCpuFeatureWord *word = &kumo_cpu_feature_words[i];

        for (unsigned bit = 0; bit < G_N_ELEMENTS(word->names); bit++) {
            if (word->names[bit] && strcmp(word->names[bit], name) == 0) {
                *ret_bit = bit;
                return word;
            }
        }
    }
    return NULL;
}
