# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion of kumo-remote

_kumo_remote() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} word command= i
    local commands='add-device add-disk add-fs add-generic-vhost-user add-net add-pmem add-rate-limit-group add-user-device add-vdpa
        add-vsock boot cancel-migration coredump counters create delete info migration-progress
        migration-start-postcopy nmi pause ping
        power-button reboot receive-migration remove-device resize resize-disk resize-zone restore resume
        send-migration shutdown shutdown-vmm snapshot update-balloon update-cpus update-disk update-net update-rate-limit-group'

    COMPREPLY=()
    # "--option=value" arrives as three words.
    [[ $cur == = ]] && cur= && prev=${COMP_WORDS[COMP_CWORD - 1]}
    [[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD - 2]}
    case $prev in
        --api-socket) mapfile -t COMPREPLY < <(compgen -f -- "$cur") && return ;;
        --dbus-service-name | --dbus-object-path | --cpus | --memory | --balloon | --size | --disk | --id) return ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
            --api-socket | --dbus-service-name | --dbus-object-path)
                [[ ${COMP_WORDS[i + 1]} == = ]] && ((i++))
                ((i++))
                ;;
            -*) ;;
            *) command=$word && break ;;
        esac
    done
    case $command in
        '') word="--api-socket --dbus-service-name --dbus-object-path --dbus-system-bus --help --version $commands" ;;
        create)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        resize) word='--cpus --memory --balloon --help' ;;
        resize-disk) word='--disk --size --help' ;;
        resize-zone) word='--id --size --help' ;;
        coredump | snapshot) word='file:/// --help' ;;
        *) word=--help ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$word" -- "$cur")
}

complete -o filenames -F _kumo_remote kumo-remote
