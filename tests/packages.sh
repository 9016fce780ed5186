#!/bin/sh
# Installs the Debian packages that building and the demonstration need, those that a package of our own needs if told
# `packages.sh deb`, and those that only tests need if told `packages.sh tests`; does nothing when all are there.
set -eu

packages="g++ libclang-dev protobuf-compiler libprotobuf-dev pkg-config libboost-dev kea-dev
    kea-dhcp4-server kea-dhcp6-server kea-common kea-ctrl-agent etcd-server etcd-client
    isc-dhcp-client iproute2 procps binutils jq"
case ${1-} in
deb) packages="$packages debhelper" ;;
tests) packages="$packages debhelper lintian apparmor strace valgrind kea-admin postgresql mariadb-server prometheus" ;;
esac

missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

echo "installing:$missing"
# Debian starts a service when its package is installed; the host's services are none of our business.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing >/dev/null
