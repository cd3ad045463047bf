/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <rng>. The VMM has exactly one; the definition got one after parsing if it had none. */
#include "domain-xml/xml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumo_xml_rng(const virDomainDef *def, KumoVmConfig *config)
{
    const virDomainRNGDef *rng;

    if (def->nrngs == 0)
        return 0;

    rng = def->rngs[0];
    kumo_xml_pci(&rng->info, &config->rng.pci);
    if (rng->source.file) {
        g_free(config->rng.src);
        config->rng.src = g_strdup(rng->source.file);
    }
    return 0;
}
