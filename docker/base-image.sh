#!/bin/sh
# Makes the Debian base image that docker/Dockerfile begins with, where no image registry can be reached: the same name, from
# Debian's mirror. Does nothing when the image is there or can be pulled.
#
# usage: docker/base-image.sh RELEASE...      (bookworm, trixie, testing)
set -eu

mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

for release in "$@"; do
    image=debian:$release-slim
    if docker image inspect "$image" >/dev/null 2>&1 || timeout 20 docker pull -q "$image" >/dev/null 2>&1; then
        continue
    fi
    command -v debootstrap >/dev/null || apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
    echo "no registry has $image: making it from $mirror"
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase "$release" "$root" "$mirror" >"$root.log" 2>&1 || {
        tail -n 20 "$root.log" >&2
        exit 1
    }
    rm -rf "$root.log" "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/*
    # As in the image of that name: a layer that was not finished is thrown away, so nothing need be safe on the disk before,
    # and nobody reads manuals in it.
    printf '%s\n' force-unsafe-io 'path-exclude /usr/share/doc/*' 'path-exclude /usr/share/man/*' >"$root/etc/dpkg/dpkg.cfg.d/image"
    # A mirror that is a snapshot serves lists that are past their date.
    echo 'Acquire::Check-Valid-Until "false";' >"$root/etc/apt/apt.conf.d/99snapshot"
    # Whoever signs for the crate registry on this machine's network does so in its containers.
    mkdir -p "$root/usr/local/share/ca-certificates"
    cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
    tar -C "$root" --numeric-owner -c . | docker import --change 'CMD ["bash"]' - "$image" >/dev/null
    rm -rf "$root"
    trap - EXIT
done
