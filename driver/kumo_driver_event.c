/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who wants to be told what happens. */
#include "driver/kumo_driver.h"

#include "viraccessapicheck.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoConnectDomainEventRegister(virConnectPtr conn, virConnectDomainEventCallback callback,
                                   void *opaque, virFreeCallback freecb)
{
    kumoDriver *driver = conn->privateData;

    if (virConnectDomainEventRegisterEnsureACL(conn) < 0)
        return -1;
    return virDomainEventStateRegister(conn, driver->events, callback, opaque, freecb) < 0 ? -1 : 0;
}

int kumoConnectDomainEventDeregister(virConnectPtr conn, virConnectDomainEventCallback callback)
{
    kumoDriver *driver = conn->privateData;

    if (virConnectDomainEventDeregisterEnsureACL(conn) < 0)
        return -1;
    return virDomainEventStateDeregister(conn, driver->events, callback) < 0 ? -1 : 0;
}

int kumoConnectDomainEventRegisterAny(virConnectPtr conn, virDomainPtr dom, int eventID,
                                      virConnectDomainEventGenericCallback callback, void *opaque,
                                      virFreeCallback freecb)
{
    kumoDriver *driver = conn->privateData;
    int ret;

    if (virConnectDomainEventRegisterAnyEnsureACL(conn) < 0)
        return -1;
    if (virDomainEventStateRegisterID(conn, driver->events, dom, eventID, callback, opaque, freecb,
                                      &ret) < 0)
        return -1;
    return ret;
}

int kumoConnectDomainEventDeregisterAny(virConnectPtr conn, int callbackID)
{
    kumoDriver *driver = conn->privateData;

    if (virConnectDomainEventDeregisterAnyEnsureACL(conn) < 0)
        return -1;
    return virObjectEventStateDeregisterID(conn, driver->events, callbackID, true) < 0 ? -1 : 0;
}
