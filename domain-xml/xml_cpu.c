/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <vcpu> and <cpu>. */
#include "domain-xml/xml.h"

#include "cpu/cpu.h"
#include "driver/conf/kumo_cpu.h"
#include "driver/conf/kumo_validate.h"
#include "virhostcpu.h"
#include "vmm-core/config/cpu_features.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static json_t *cpu_list(virBitmap *cpus)
{
    json_t *list = json_array();
    ssize_t cpu = -1;

    while ((cpu = virBitmapNextSetBit(cpus, cpu)) >= 0)
        json_array_append_new(list, json_integer((json_int_t)cpu));
    return list;
}

int kumo_xml_thread_cpus(const virDomainDef *def, virBitmap *own, virBitmap **cpus)
{
    virBitmap *given = own ? own : def->cpumask;

    *cpus = given ? virBitmapNewCopy(given) : NULL;
    /* It would follow the VMM's main thread, wherever that is pinned. */
    if (!given && def->cputune.emulatorpin && !(*cpus = virHostCPUGetAvailableCPUsBitmap()))
        return -1;
    return 0;
}

static json_t *affinity_list(const virDomainDef *def)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < virDomainDefGetVcpusMax(def); i++) {
        g_autoptr(virBitmap) cpus = NULL;

        if (kumo_xml_thread_cpus(def, def->vcpus[i]->cpumask, &cpus) < 0) {
            json_decref(list);
            return NULL;
        }
        if (cpus)
            json_array_append_new(
                list, json_pack("{s:I, s:o}", "vcpu", (json_int_t)i, "host_cpus", cpu_list(cpus)));
    }
    return list;
}

json_t *kumo_xml_affinity_json(virDomainDef *def)
{
    json_t *list = affinity_list(def);

    return list ? json_pack("{s:o}", "affinity", list) : NULL;
}

static int set_affinity(const virDomainDef *def, KumoCpusConfig *cpus)
{
    json_t *list = affinity_list(def);
    size_t i;
    json_t *entry;

    if (!list)
        return -1;
    json_array_foreach(list, i, entry)
    {
        KumoCpuAffinity *affinity = g_new0(KumoCpuAffinity, 1);
        size_t n;
        json_t *cpu;

        affinity->vcpu = (uint32_t)json_integer_value(json_object_get(entry, "vcpu"));
        affinity->host_cpus = g_array_new(FALSE, FALSE, sizeof(uint32_t));
        json_array_foreach(json_object_get(entry, "host_cpus"), n, cpu)
        {
            uint32_t number = (uint32_t)json_integer_value(cpu);

            g_array_append_val(affinity->host_cpus, number);
        }
        g_ptr_array_add(cpus->affinity, affinity);
    }
    json_decref(list);
    return 0;
}

/* --- features --- */

static void add_to_mask(KumoCpusConfig *cpus, char sign, const char *name)
{
    g_ptr_array_add(cpus->cpu_mask, g_strdup_printf("%c%s", sign, name));
}

/* Whatever the model: what the VMM itself does for each guest, and what tells of the topology. */
static bool is_given_always(const char *name)
{
    static const char *const always[] = { "hypervisor", "x2apic", "ht", "cmp_legacy", "topoext" };

    for (size_t i = 0; i < G_N_ELEMENTS(always); i++) {
        if (STREQ(always[i], name))
            return true;
    }
    return false;
}

/* The guest's CPU has what @cpu says, and nothing else that has a name. */
static int set_model_mask(const virCPUDef *cpu, KumoCpusConfig *cpus)
{
    g_autoptr(virCPUDef) all = virCPUDefCopy(cpu);
    bool nested = false;

    if (virCPUExpandFeatures(virArchFromHost(), all) < 0)
        return -1;
    for (unsigned i = 0; i < kumo_n_cpu_feature_words; i++) {
        for (unsigned bit = 0; bit < G_N_ELEMENTS(kumo_cpu_feature_words[i].names); bit++) {
            const char *name = kumo_cpu_feature_words[i].names[bit];
            const virCPUFeatureDef *own = name ? virCPUDefFindFeature(cpu, name) : NULL;
            const virCPUFeatureDef *feature = name ? virCPUDefFindFeature(all, name) : NULL;

            if (!name)
                continue;
            if (own && own->policy == VIR_CPU_FEATURE_FORCE)
                add_to_mask(cpus, '+', name);
            else if (feature ? feature->policy != VIR_CPU_FEATURE_REQUIRE : !is_given_always(name))
                add_to_mask(cpus, '-', name);
            else if (STREQ(name, "svm") || STREQ(name, "vmx"))
                nested = true;
        }
    }
    cpus->nested = nested;
    return 0;
}

static int set_mask(const virCPUDef *cpu, KumoCpusConfig *cpus)
{
    if (kumoCpuHasModel(cpu))
        return set_model_mask(cpu, cpus);

    /* The host's CPU, but for what is said of single features. */
    for (size_t i = 0; i < cpu->nfeatures; i++) {
        const virCPUFeatureDef *feature = &cpu->features[i];

        if (feature->policy == VIR_CPU_FEATURE_FORCE)
            add_to_mask(cpus, '+', feature->name);
        else if (feature->policy == VIR_CPU_FEATURE_DISABLE ||
                 feature->policy == VIR_CPU_FEATURE_FORBID)
            add_to_mask(cpus, '-', feature->name);
    }
    /* On another host time may run at another rate. */
    if (cpu->migratable == VIR_TRISTATE_SWITCH_ON && !virCPUDefFindFeature(cpu, "invtsc"))
        add_to_mask(cpus, '-', "invtsc");
    return 0;
}

int kumo_xml_cpu(const virDomainDef *def, KumoVmConfig *config)
{
    KumoCpusConfig *cpus = &config->cpus;
    const virCPUDef *cpu = def->cpu;

    cpus->boot_vcpus = virDomainDefGetVcpus(def);
    cpus->max_vcpus = virDomainDefGetVcpusMax(def);
    cpus->kvm_hyperv = kumoHasHyperv(def);
    if (set_affinity(def, cpus) < 0)
        return -1;
    if (!cpu)
        return 0;

    if (set_mask(cpu, cpus) < 0)
        return -1;
    if (cpu->sockets > 0 && cpu->cores > 0 && cpu->threads > 0) {
        cpus->has_topology = true;
        cpus->topology = (KumoCpuTopology){
            .threads_per_core = cpu->threads,
            .cores_per_die = cpu->cores,
            .dies_per_package = MAX(cpu->dies, 1),
            .packages = cpu->sockets,
        };
    }
    if (cpu->addr && cpu->addr->mode == VIR_CPU_MAX_PHYS_ADDR_MODE_EMULATE && cpu->addr->bits > 0)
        cpus->max_phys_bits = (uint32_t)cpu->addr->bits;
    return 0;
}
