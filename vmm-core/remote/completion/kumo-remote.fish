# SPDX-License-Identifier: LGPL-2.1-or-later
# fish completion of kumo-remote

complete -c kumo-remote -f
complete -c kumo-remote -l api-socket -r -F -d "UNIX socket of kumo's API"
complete -c kumo-remote -l dbus-service-name -x -d 'name of kumo on D-Bus'
complete -c kumo-remote -l dbus-object-path -x -d 'path of kumo on D-Bus'
complete -c kumo-remote -l dbus-system-bus -d "use the system's bus"
complete -c kumo-remote -s h -l help -d help
complete -c kumo-remote -s V -l version -d version
complete -c kumo-remote -n __fish_use_subcommand -a add-device -d 'add a VFIO device'
complete -c kumo-remote -n __fish_use_subcommand -a add-disk -d 'add a disk'
complete -c kumo-remote -n __fish_use_subcommand -a add-fs -d 'add a virtio-fs device'
complete -c kumo-remote -n __fish_use_subcommand -a add-generic-vhost-user -d 'add a vhost-user device of any type'
complete -c kumo-remote -n __fish_use_subcommand -a add-net -d 'add a network device'
complete -c kumo-remote -n __fish_use_subcommand -a add-pmem -d 'add a persistent memory device'
complete -c kumo-remote -n __fish_use_subcommand -a add-rate-limit-group -d 'add a group of disks with limits together'
complete -c kumo-remote -n __fish_use_subcommand -a add-user-device -d 'add a vfio-user device'
complete -c kumo-remote -n __fish_use_subcommand -a add-vdpa -d 'add a vDPA device'
complete -c kumo-remote -n __fish_use_subcommand -a add-vsock -d 'add a vsock device'
complete -c kumo-remote -n __fish_use_subcommand -a boot -d 'start the created VM'
complete -c kumo-remote -n __fish_use_subcommand -a cancel-migration -d 'call the migration off'
complete -c kumo-remote -n __fish_use_subcommand -a coredump -d 'write a core dump to file://PATH'
complete -c kumo-remote -n __fish_use_subcommand -a counters -d 'show the devices\' counters'
complete -c kumo-remote -n __fish_use_subcommand -a create -d 'create a VM from JSON'
complete -c kumo-remote -n __fish_use_subcommand -a delete -d 'delete the VM'
complete -c kumo-remote -n __fish_use_subcommand -a info -d 'show the VM\'s configuration and state'
complete -c kumo-remote -n __fish_use_subcommand -a migration-progress -d 'show how far the migration is'
complete -c kumo-remote -n __fish_use_subcommand -a migration-start-postcopy -d 'let the rest of the memory follow the VM'
complete -c kumo-remote -n __fish_use_subcommand -a nmi -d 'send a non-maskable interrupt'
complete -c kumo-remote -n __fish_use_subcommand -a pause -d 'pause the VM'
complete -c kumo-remote -n __fish_use_subcommand -a ping -d 'show the VMM\'s version'
complete -c kumo-remote -n __fish_use_subcommand -a power-button -d 'press the power button'
complete -c kumo-remote -n __fish_use_subcommand -a reboot -d 'reboot the VM'
complete -c kumo-remote -n __fish_use_subcommand -a receive-migration -d 'wait for a VM to arrive'
complete -c kumo-remote -n __fish_use_subcommand -a remove-device -d 'remove a device'
complete -c kumo-remote -n __fish_use_subcommand -a resize -d 'change vCPUs or memory'
complete -c kumo-remote -n __fish_use_subcommand -a resize-disk -d 'change the size of a disk'
complete -c kumo-remote -n __fish_use_subcommand -a resize-zone -d 'change the size of a memory zone'
complete -c kumo-remote -n __fish_use_subcommand -a restore -d 'restore a VM from a snapshot'
complete -c kumo-remote -n __fish_use_subcommand -a resume -d 'let the paused VM go on'
complete -c kumo-remote -n __fish_use_subcommand -a send-migration -d 'migrate the VM away'
complete -c kumo-remote -n __fish_use_subcommand -a shutdown -d 'stop the VM hard'
complete -c kumo-remote -n __fish_use_subcommand -a shutdown-vmm -d 'end the VMM'
complete -c kumo-remote -n __fish_use_subcommand -a snapshot -d 'write a snapshot to file://DIRECTORY'
complete -c kumo-remote -n __fish_use_subcommand -a update-balloon -d 'change how often the guest tells statistics'
complete -c kumo-remote -n __fish_use_subcommand -a update-cpus -d 'change where vCPUs run'
complete -c kumo-remote -n __fish_use_subcommand -a update-disk -d 'change the rate limits, affinity or threshold of a disk'
complete -c kumo-remote -n __fish_use_subcommand -a update-net -d 'change the rate limits, affinity or link of a network device'
complete -c kumo-remote -n __fish_use_subcommand -a update-rate-limit-group -d 'change the limits of a group of disks'
complete -c kumo-remote -n '__fish_seen_subcommand_from create' -F
complete -c kumo-remote -n '__fish_seen_subcommand_from resize' -l cpus -x
complete -c kumo-remote -n '__fish_seen_subcommand_from resize' -l memory -x
complete -c kumo-remote -n '__fish_seen_subcommand_from resize' -l balloon -x
complete -c kumo-remote -n '__fish_seen_subcommand_from resize-disk' -l disk -x
complete -c kumo-remote -n '__fish_seen_subcommand_from resize-zone' -l id -x
complete -c kumo-remote -n '__fish_seen_subcommand_from resize-disk resize-zone' -l size -x
