# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# Where downloaded and generated material is kept, and small helpers shared by the scripts here. To be sourced.

KUMO_CACHE=${KUMO_CACHE:-/var/cache/kumo}
export KUMO_CACHE

say() { printf '%s\n' "$*" >&2; }

die() {
    say "dev: $*"
    exit 1
}

# Runs a command as root: directly, or with sudo.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "root is needed for: $*"
    fi
}

# Makes the cache directory, owned by the person who runs ./dev.
make_cache() {
    [ -d "$KUMO_CACHE" ] && [ -w "$KUMO_CACHE" ] && return
    mkdir -p "$KUMO_CACHE" 2>/dev/null && [ -w "$KUMO_CACHE" ] && return
    as_root install -d -o "$(id -u)" -g "$(id -g)" "$KUMO_CACHE"
}
