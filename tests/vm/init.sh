#!/bin/busybox sh
# The guest's first program: mounts the host's files, read-only with a writable layer in memory above
# them, and hands over to tests/vm/guest.py of the checkout, or to a system that is to be booted.
set -e
trap 'echo "The guest could not be set up."; /bin/busybox poweroff -f' EXIT

mount() { /bin/busybox mount "$@"; }
mkdir() { /bin/busybox mkdir "$@"; }

mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read -r module; do
	/bin/busybox insmod "/modules/$module"
done </modules/order
until [ -c /dev/vport0p1 ] && [ -c /dev/vport0p2 ]; do
	/bin/busybox usleep 10000
done

mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
mount -t tmpfs -o size=75% changes /changes
mkdir /changes/upper /changes/work
mount -t overlay -o lowerdir=/host,upperdir=/changes/upper,workdir=/changes/work root /root

mount --move /dev /root/dev
mount --move /proc /root/proc
mount -t sysfs sys /root/sys
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
mount -t tmpfs run /root/run
mkdir -p /root/dev/pts /root/dev/shm /root/run/lock /root/run/tests
mount -t devpts -o ptmxmode=666 devpts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
/bin/busybox hostname guest
/bin/busybox ip link set lo up

# What to run: a system's own first program, or the checkout's tests with a Python.
. /settings
if [ -n "$system" ]; then
	exec /bin/busybox switch_root /root "$system"
fi
/bin/busybox cp /plan.json /root/run/plan.json
# What tests write is in memory by itself, not in the layer above the host's files.
export HOME=/root LANG=C.UTF-8 TMPDIR=/run/tests
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec /bin/busybox switch_root /root /bin/sh -c 'cd "$1" && exec "$2" -m tests.vm.guest' sh \
	"$checkout" "$python" </root/dev/null
