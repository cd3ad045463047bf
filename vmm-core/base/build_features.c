/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/build_features.h"

#include <stddef.h>

#include "kumo-build.h"

const char *const *kumo_features(void)
{
    static const char *const features[] = {
#if KUMO_WITH_KVM
        "kvm",
#endif
        "io_uring",
        "guest_debug",
#if KUMO_WITH_DBUS
        "dbus_api",
#endif
        NULL,
    };

    return features;
}
