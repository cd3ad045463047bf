/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* <serial> and <console>: the one UART and the one virtio console. */
#include "domain-xml/xml.h"

#include "driver/conf/kumo_address.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static void set_connection(bool connect, const virDomainChrSourceReconnectDef *reconnect,
                           KumoConsoleConfig *config)
{
    config->connect = connect;
    if (reconnect->enabled == VIR_TRISTATE_BOOL_YES)
        config->reconnect_s = reconnect->timeout;
}

static int set_console(const virDomainChrDef *chr, KumoConsoleConfig *config)
{
    const virDomainChrSourceDef *source = chr->source;

    config->log_file = g_strdup(source->logfile);
    config->log_append = source->logappend == VIR_TRISTATE_SWITCH_ON;
    switch (source->type) {
    case VIR_DOMAIN_CHR_TYPE_NULL:
        config->mode = KUMO_CONSOLE_NULL;
        return 0;
    case VIR_DOMAIN_CHR_TYPE_PTY:
        config->mode = KUMO_CONSOLE_PTY;
        return 0;
    case VIR_DOMAIN_CHR_TYPE_FILE:
        config->mode = KUMO_CONSOLE_FILE;
        config->file = g_strdup(source->data.file.path);
        config->append = source->data.file.append == VIR_TRISTATE_SWITCH_ON;
        return 0;
    case VIR_DOMAIN_CHR_TYPE_UNIX:
        config->mode = KUMO_CONSOLE_SOCKET;
        config->socket = g_strdup(source->data.nix.path);
        set_connection(!source->data.nix.listen, &source->data.nix.reconnect, config);
        return 0;
    case VIR_DOMAIN_CHR_TYPE_TCP:
        config->mode = KUMO_CONSOLE_TCP;
        config->tcp = g_strdup_printf(strchr(source->data.tcp.host, ':') ? "[%s]:%s" : "%s:%s",
                                      source->data.tcp.host, source->data.tcp.service);
        set_connection(!source->data.tcp.listen, &source->data.tcp.reconnect, config);
        return 0;
    default:
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, _("character device type '%s'"),
                       virDomainChrTypeToString(source->type));
        return -1;
    }
}

int kumo_xml_chardev(const virDomainDef *def, KumoVmConfig *config)
{
    const virDomainControllerDef *controller = kumoVirtioSerialController(def);

    config->serial.mode = KUMO_CONSOLE_OFF;
    config->console.mode = KUMO_CONSOLE_OFF;

    if (def->nserials > 0 && set_console(def->serials[0], &config->serial) < 0)
        return -1;

    for (size_t i = 0; i < def->nconsoles; i++) {
        /* A console with a serial target is the serial port seen from the other side. */
        if (def->consoles[i]->targetType != VIR_DOMAIN_CHR_CONSOLE_TARGET_TYPE_VIRTIO)
            continue;
        if (set_console(def->consoles[i], &config->console) < 0)
            return -1;
        /* libvirt's model has a port on a controller; here the two are one PCI device. */
        if (controller)
            kumo_xml_pci(&controller->info, &config->console.pci);
        g_free(config->console.pci.id);
        config->console.pci.id = g_strdup(def->consoles[i]->info.alias);
    }
    return 0;
}
