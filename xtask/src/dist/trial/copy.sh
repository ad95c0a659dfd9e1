# Starts systemd in a copy of this system, in namespaces of its own, which take everything along when they end:
# copy.sh PLACE, in a mount namespace of its own, with PLACE/try.sh to be run by systemd.
place=$1
root=$place/layers/root
mount --make-rprivate /
mkdir "$place/layers"
mount -t tmpfs -o mode=755 layers "$place/layers"
mkdir "$place/layers/changes" "$place/layers/work" "$root"
# What is below / is read, what is written goes to memory.
mount -t overlay -o "lowerdir=/,upperdir=$place/layers/changes,workdir=$place/layers/work" copy "$root"
mkdir "$root/trial" "$root/trial-changes" "$root/trial-units"
mount --bind "$place" "$root/trial"
mount --bind "$place/layers/changes" "$root/trial-changes"

mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs tmp "$root/tmp"
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
# Some systems leave out documentation; here it is part of what is tried.
rm -f "$root"/etc/dpkg/dpkg.cfg.d/*

# The only units: nothing of the machine's is to be started. try.service is all that systemd starts by itself,
# and when it ends, so does everything else.
units=$root/trial-units
for target in basic multi-user network-online shutdown sysinit; do
    printf '[Unit]\nDefaultDependencies=no\n' >"$units/$target.target"
done
cat >"$units/try.service" <<'UNIT'
[Unit]
DefaultDependencies=no
SuccessAction=exit-force
SuccessActionExitStatus=0
FailureAction=exit-force
FailureActionExitStatus=1
[Service]
Type=oneshot
TimeoutStartSec=100
ExecStart=/bin/sh -eu /trial/try.sh
StandardOutput=append:/trial/report
StandardError=append:/trial/report
UNIT
ln -s /usr/lib/systemd/system/vxdp@.service "$units/vxdp@.service"

# systemd makes cgroups below its own, so it gets one that can be removed.
mkdir "$place/layers/cgroup"
mount -t cgroup2 cgroup "$place/layers/cgroup"
parent=$place/layers/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
own=$parent/vxdp-dist-$$
mkdir "$own"
echo $$ >"$own/cgroup.procs"

start='
root=$1
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
mount -t bpf bpf "$root/sys/fs/bpf"
cd "$root"
exec env --ignore-environment container=trial PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
    SYSTEMD_UNIT_PATH=/trial-units chroot "$root" /lib/systemd/systemd --system --unit=try.service --log-target=null
'
result=0
setpriv --pdeathsig KILL unshare --net --mount --pid --uts --ipc --cgroup --fork --kill-child -- \
    sh -euc "$start" start "$root" </dev/null || result=$?

echo $$ >"$parent/cgroup.procs"
# Processes are gone with their namespace; the kernel takes a moment to notice.
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    find "$own" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ -d "$own" ] || break
    sleep 0.1
done
exit $result
