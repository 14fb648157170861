#!/bin/bash
# A real Ceph RGW (S3) on 127.0.0.1 from Debian 12's packages, unpacked and not installed. Any user may run it.
#
# usage: ceph_rgw.sh FOLDER PORT [PACKAGES]
#   FOLDER    everything the daemons write: data, logs, sockets; emptied first
#   PORT      S3 port; the monitor takes two free ports of its own
#   PACKAGES  where the packages are unpacked once and reused (330 MB), default FOLDER/packages
# Stays in the foreground; ends its daemons when it is terminated. Credentials: testkey / testsecret.
set -euo pipefail

folder=$(realpath -m "$1")
port=$2
packages=$(realpath -m "${3:-$folder/packages}")
state=$folder/state
daemons=()

stop() {
  trap - EXIT TERM INT
  for ((i = ${#daemons[@]} - 1; i >= 0; i--)); do
    kill "${daemons[i]}" 2>/dev/null || true
    wait "${daemons[i]}" 2>/dev/null || true
  done
}
trap stop EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

unpack() {
  mkdir -p "$packages"
  exec 9>"$packages/lock"
  flock 9
  [ -e "$packages/complete" ] && return
  mkdir -p "$packages/debs" "$packages/root"
  (
    cd "$packages/debs"
    apt-get install -s --no-install-recommends radosgw ceph-mon ceph-osd ceph-common 2>/dev/null |
      awk '/^Inst/ {print $2}' | xargs apt-get download -q >/dev/null
    for deb in *.deb; do dpkg -x "$deb" "$packages/root"; done
  )
  rm -r "$packages/debs"
  touch "$packages/complete"
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

unpack
flock -u 9
root=$packages/root
bin=$root/usr/bin
lib=$root/usr/lib/$(uname -m)-linux-gnu
export LD_LIBRARY_PATH=$lib:$lib/ceph:$root/lib/$(uname -m)-linux-gnu:$root/usr/lib/ceph
export PYTHONPATH=$root/usr/lib/python3/dist-packages

rm -rf "$state"
mkdir -p "$state"/{mon,osd,rgw,run,out}
fsid=$(cat /proc/sys/kernel/random/uuid)
osd_id=$(cat /proc/sys/kernel/random/uuid)
monitor="[v2:127.0.0.1:$(free_port),v1:127.0.0.1:$(free_port)]"
keyring=$state/keyring
conf=$state/ceph.conf

# bluestore: the in-memory store grows without bound. tcp_nodelay: a small GET takes 48 ms without it.
cat >"$conf" <<CONF
[global]
fsid = $fsid
keyring = $keyring
mon host = $monitor
public network = 127.0.0.0/8
run dir = $state/run
admin socket = $state/run/\$name.asok
pid file = $state/run/\$name.pid
log file = $state/out/\$name.log
crash dir = $state/out
mon cluster log file = $state/out/cluster.log
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd class dir = $lib/rados-classes
plugin dir = $lib/ceph
erasure code dir = $lib/ceph/erasure-code
ms bind ipv6 = false
[mon.a]
mon data = $state/mon
[osd.0]
osd data = $state/osd
osd objectstore = bluestore
bluestore block size = 10737418240
osd memory target = 939524096
[client.rgw]
rgw data = $state/rgw
rgw frontends = beast endpoint=127.0.0.1:$port tcp_nodelay=1
CONF

key() { "$bin/ceph-authtool" "$keyring" --gen-key "$@" >/dev/null; }
"$bin/ceph-authtool" -C "$keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
key -n client.admin --cap mon 'allow *' --cap osd 'allow *'
key -n client.rgw --cap mon 'allow rw' --cap osd 'allow rwx'
key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
"$bin/monmaptool" --create --clobber --addv a "$monitor" --fsid "$fsid" "$state/monmap" >/dev/null

admin() { /usr/bin/python3 "$bin/ceph" -c "$conf" --connect-timeout 60 "$@"; }
"$bin/ceph-mon" -c "$conf" -i a --mkfs --monmap "$state/monmap" --keyring "$keyring"
"$bin/ceph-mon" -c "$conf" -i a -f >"$state/out/mon.txt" 2>&1 &
daemons+=($!)
admin osd new "$osd_id" 0 >/dev/null
"$bin/ceph-osd" -c "$conf" -i 0 --mkfs --osd-uuid "$osd_id" --no-mon-config 2>/dev/null
"$bin/ceph-osd" -c "$conf" -i 0 -f >"$state/out/osd.txt" 2>&1 &
daemons+=($!)
admin osd crush add osd.0 1.0 root=default host=localhost >/dev/null 2>&1
admin osd crush rule create-simple one default osd
admin config set mon osd_pool_default_crush_rule 1
timeout 120 "$bin/radosgw-admin" -c "$conf" user create --uid=test --display-name=test \
  --access-key=testkey --secret-key=testsecret >/dev/null 2>&1
"$bin/radosgw" -c "$conf" -n client.rgw -f >"$state/out/rgw.txt" 2>&1 &
daemons+=($!)
wait -n
echo "a Ceph daemon ended; its log is in $state/out" >&2
exit 1
