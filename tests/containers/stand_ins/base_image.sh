#!/usr/bin/env bash
# base_image.sh TAG: makes an image of this Debian release with Python, for engines that can pull no image. Needs root and debootstrap.
# It trusts the certificates that this machine trusts, and uses this machine's settings of apt.
set -euo pipefail
tag=$1
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
. /etc/os-release
mirror=$(grep -hE '^(URIs:|deb )' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -oE 'https?://[^ ]*/debian/?( |$)' | head -1 || true)
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates,netbase,tzdata \
  "$VERSION_CODENAME" "$root" "${mirror:-http://deb.debian.org/debian}" >&2
ln -s /usr/bin/python3 "$root/usr/local/bin/python"
ln -s /usr/bin/python3 "$root/usr/local/bin/python3"
cp /etc/apt/apt.conf.d/99* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
bundle=/etc/ssl/certs/ca-certificates.crt
# The bundle may hold certificates that no package brings, such as those of a proxy.
cp --remove-destination "$bundle" "$root$bundle"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
tar -C "$root" -c . | docker import \
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
  --change "ENV PIP_CERT=$bundle" --change "ENV SSL_CERT_FILE=$bundle" \
  --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' - "$tag" >&2
