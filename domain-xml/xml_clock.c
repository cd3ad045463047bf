/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <clock>: how far the real-time clock is ahead of UTC, as it is when the VMM starts. */
#include "domain-xml/xml.h"

#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/* Returns: 0, or -1 with the error reported. */
static int offset_of_zone(const char *name, long long *ret_s)
{
    g_autoptr(GTimeZone) zone = g_time_zone_new_identifier(name);

    if (!zone) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/clock/@timezone: '%s' is not known on this host"), name);
        return -1;
    }
    *ret_s = g_time_zone_get_offset(
        zone, g_time_zone_find_interval(zone, G_TIME_TYPE_UNIVERSAL, g_get_real_time() / 1000000));
    return 0;
}

int kumo_xml_clock(const virDomainDef *def, KumoVmConfig *config)
{
    const virDomainClockDef *clock = &def->clock;
    bool local = clock->offset == VIR_DOMAIN_CLOCK_OFFSET_LOCALTIME;
    long long offset = 0;
    long local_offset;

    if (clock->offset == VIR_DOMAIN_CLOCK_OFFSET_TIMEZONE &&
        offset_of_zone(clock->data.timezone, &offset) < 0)
        return -1;
    if (clock->offset == VIR_DOMAIN_CLOCK_OFFSET_ABSOLUTE)
        offset = (long long)clock->data.starttime - g_get_real_time() / G_USEC_PER_SEC;
    if (clock->offset == VIR_DOMAIN_CLOCK_OFFSET_VARIABLE) {
        offset = clock->data.variable.adjustment;
        local = clock->data.variable.basis == VIR_DOMAIN_CLOCK_BASIS_LOCALTIME;
    }
    if (local) {
        if (virTimeLocalOffsetFromUTC(&local_offset) < 0)
            return -1;
        offset += local_offset;
    }
    config->platform.rtc_offset_s = (int32_t)offset;
    return 0;
}
