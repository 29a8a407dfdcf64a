#!/usr/lib/busybox/busybox sh
# First process of a guest: mounts, loads the port to the host, starts the agent, powers off.
export PATH=/usr/sbin:/usr/bin:/usr/lib/busybox
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /run/netns /run/lock
chmod 1777 /tmp
ln -sf /proc/self/fd /dev/fd
echo /sbin/modprobe > /proc/sys/kernel/modprobe
hostname guest
ip link set lo up
modprobe -a virtio_pci virtio_console 2>/dev/null
if grep -qw kube_ipvs.shell /proc/cmdline; then
    setsid cttyhack sh -l
else
    /usr/lib/guest/agent guest-agent
fi
sync
poweroff -f
