/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The host's PCI devices on their way to a guest and back. Nothing of this is the VMM's: libvirt's
 * helpers ask its node device driver for the device, check the caller's rights to it, bind drivers,
 * and know which devices its other drivers' domains use.
 */
#include "driver/kumo_driver.h"

#include "domain_driver.h"
#include "driver/kumo_secondary.h"
#include "virfile.h"
#include "virhostdev.h"
#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

typedef int (*kumoNodeDeviceCall)(virNodeDevicePtr dev, virHostdevManager *manager,
                                  const char *driverName);

static int kumoNodeDeviceDo(virNodeDevicePtr dev, kumoNodeDeviceCall call, const char *driverName)
{
    kumoDriver *driver = dev->conn->privateData;
    g_autoptr(virHostdevManager) manager = virHostdevManagerGetDefault();
    virConnectPtr conn;
    int rc;

    if (!manager || !(conn = kumoSecondaryNodeDevice(driver)))
        return -1;
    rc = call(dev, manager, driverName);
    kumoSecondaryNodeDeviceDone(conn);
    return rc;
}

static int kumoNodeDeviceDoDetach(virNodeDevicePtr dev, virHostdevManager *manager,
                                  const char *driverName)
{
    return kumoCompatNodeDeviceDetach(dev, manager, driverName);
}

static int kumoNodeDeviceDoReAttach(virNodeDevicePtr dev, virHostdevManager *manager,
                                    const char *driverName G_GNUC_UNUSED)
{
    return virDomainDriverNodeDeviceReAttach(dev, manager);
}

static int kumoNodeDeviceDoReset(virNodeDevicePtr dev, virHostdevManager *manager,
                                 const char *driverName G_GNUC_UNUSED)
{
    return virDomainDriverNodeDeviceReset(dev, manager);
}

int kumoNodeDeviceDetachFlags(virNodeDevicePtr dev, const char *driverName, unsigned int flags)
{
    virCheckFlags(0, -1);

    if (STREQ_NULLABLE(driverName, "kvm")) {
        virReportError(VIR_ERR_ARGUMENT_UNSUPPORTED, "%s",
                       _("devices are assigned by vfio, there is no driver 'kvm' for it"));
        return -1;
    }
    if (!kumoCompatDetachDriverKnown(driverName)) {
        virReportError(VIR_ERR_INVALID_ARG, _("the driver '%s' is not known, only 'vfio' is"),
                       driverName);
        return -1;
    }
    if (!virHostHasIOMMU() || !virFileExists("/dev/vfio/vfio")) {
        virReportError(VIR_ERR_ARGUMENT_UNSUPPORTED, "%s",
                       _("the host has no IOMMU or no VFIO, so no device can be assigned"));
        return -1;
    }
    return kumoNodeDeviceDo(dev, kumoNodeDeviceDoDetach, driverName);
}

int kumoNodeDeviceDettach(virNodeDevicePtr dev)
{
    return kumoNodeDeviceDetachFlags(dev, NULL, 0);
}

int kumoNodeDeviceReAttach(virNodeDevicePtr dev)
{
    return kumoNodeDeviceDo(dev, kumoNodeDeviceDoReAttach, NULL);
}

int kumoNodeDeviceReset(virNodeDevicePtr dev)
{
    return kumoNodeDeviceDo(dev, kumoNodeDeviceDoReset, NULL);
}
