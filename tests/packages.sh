#!/bin/sh
# Installs the Debian packages that are missing for what is told: `packages.sh build` for the library, `deb` for a package of it,
# `demo` for the demonstration, `tests` for all tests; does nothing when all are there.
set -eu

build="g++ libclang-dev protobuf-compiler libprotobuf-dev pkg-config libboost-dev kea-dev kea-common"
demo="kea-dhcp4-server kea-dhcp6-server etcd-server etcd-client isc-dhcp-client iproute2 procps jq"
tests="debhelper lintian binutils apparmor strace valgrind kea-ctrl-agent kea-admin postgresql mariadb-server prometheus"
case ${1-} in
build) packages=$build ;;
deb) packages="$build debhelper jq" ;;
demo) packages="$build $demo" ;;
tests) packages="$build $demo $tests" ;;
*) echo "usage: packages.sh build|deb|demo|tests, found '${1-}'" >&2 && exit 2 ;;
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
