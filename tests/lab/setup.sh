#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Installs the packages of packages.list that are missing, fetches what fetch.sh lists, and builds firmware and images.
# Quick when it has been done: a stamp in the cache is keyed by all the inputs.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/cache.sh"

[ "$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")" = bookworm ] ||
    die "setup knows Debian 12 (bookworm); on another system install the equivalents of $here/packages.list yourself"

stamp() {
    local installed
    installed=$(dpkg-query -W -f '${source:Version}' libvirt-dev 2>/dev/null || true)
    cat "$here"/{packages.list,setup.sh,fetch.sh,firmware.sh,private-apt.sh,bzimage.py} - <<<"$installed" | sha256sum | cut -c1-16
}

[ -e "$KUMO_CACHE/setup-$(stamp)" ] && exit 0

mapfile -t wanted < <(grep -vE '^(#|$)' "$here/packages.list")
missing=()
for package in "${wanted[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    say "installing: ${missing[*]}"
    as_root apt-get update -q >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
fi
"$here/fetch.sh"
"$here/firmware.sh"
make_cache
"$here/images.py" >/dev/null
rm -f "$KUMO_CACHE"/setup-*
touch "$KUMO_CACHE/setup-$(stamp)"
