# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# An apt of our own for packages that are read and never installed: source packages, and binary packages of another
# Debian release. It takes mirror, proxy and keys from the machine's configuration and keeps its lists in the cache
# directory, so the machine's own sources stay as they are. To be sourced after cache.sh.

# private_apt RELEASE COMMAND… : runs an apt command (apt-get, apt-cache) that sees only Debian RELEASE.
private_apt() {
    local release=$1 tool=$2 home=$KUMO_CACHE/apt/$1
    shift 2
    "$tool" -q -o APT::Sandbox::User=root -o Dir::State="$home/state" -o Dir::State::status=/var/lib/dpkg/status \
        -o Dir::Cache="$home/cache" -o Dir::Etc::SourceList="$home/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
        -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

# private_apt_update RELEASE: writes the sources of RELEASE and reads its lists. The machine's sources may be in the
# one-line or in the deb822 style; `apt-get indextargets` understands both.
private_apt_update() {
    local release=$1 home=$KUMO_CACHE/apt/$1 own key options=
    own=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
    mkdir -p "$home/state/lists/partial" "$home/cache/archives/partial"
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$key" ] && options="[signed-by=$key] "
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v own="$own" -v release="$release" -v options="$options" '
            $3 == "main" && ($2 == own || $2 == own "-updates" || $2 == own "-security") {
                suite = release substr($2, length(own) + 1)
                line = options $1 " " suite " main"
                if (!seen[line]++) {
                    print "deb " line
                    print "deb-src " line
                }
            }' >"$home/sources.list.new"
    [ -s "$home/sources.list.new" ] || die "no Debian $own sources found in this machine's apt configuration"
    mv "$home/sources.list.new" "$home/sources.list"
    private_apt "$release" apt-get update >&2 || die "apt cannot read the lists of Debian $release"
}
