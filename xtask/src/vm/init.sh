#!/bin/busybox sh
# The first process of the virtual machine: sets it up, runs /vxdp-vm/jobs, reports on the second serial line.
export PATH=/usr/sbin:/usr/bin:/busybox HOME=/root RUST_BACKTRACE=1
/bin/busybox mkdir -p /busybox /dev /proc /sys /run /tmp /root
/bin/busybox --install -s /busybox
chmod 1777 /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
# Its device node is made when it is loaded, and nobody asks for it before.
modprobe tun
ulimit -n "$(ulimit -H -n)"
ulimit -l unlimited
cd "$(cat /vxdp-vm/directory)"

hostname vm

if grep -qw vxdp-vm=shell /proc/cmdline; then
    exec </dev/console >/dev/console 2>&1
    echo "Linux $(uname -r), emulated. Begin with: vxdp-lab up. The end of the shell is \`exit\`."
    setsid cttyhack sh
    poweroff -f
fi

# Nothing between a job and whoever reads: no echo, no carriage returns.
exec </dev/null >/dev/ttyS1 2>&1
stty raw -echo </dev/ttyS1
stty raw -echo </dev/ttyS2

# job NAME SECONDS COMMAND
job() {
    echo "@vxdp-vm begin $1"
    timeout "$2" sh -c "$3"
    # A job's last line may lack its end.
    printf '\n@vxdp-vm end %s %s\n' "$?" "$1"
}

echo "@vxdp-vm kernel $(uname -r)"
. /vxdp-vm/jobs
echo "@vxdp-vm done"
# What was written has to leave the serial line before the machine goes.
stty -F /dev/ttyS1 drain 2>/dev/null || sleep 1
poweroff -f
