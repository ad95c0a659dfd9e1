# Installs the package, runs it as a service, upgrades and removes it. Runs in the copy of the system, started by
# its systemd. Fails at the first thing that is not as it should be.
cd /trial

fail() {
    echo "FAILED: $*"
    cat /run/vxdp-try.log 2>/dev/null || true
    exit 1
}
# until_true COMMAND…: polls, for 20 seconds.
until_true() {
    left=200
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.1
    done
}
# changed_files: every file that differs from the machine's, but for dpkg's own records and caches.
changed_files() {
    find /trial-changes ! -type d | grep -v -e '^/trial-changes/trial' -e '^/trial-changes/var/lib/dpkg/' \
        -e '^/trial-changes/var/cache/' -e '^/trial-changes/var/log/' | sort
}
main_pid() { systemctl show --property MainPID --value vxdp@host1; }
another_pid() { pid=$(main_pid); [ "$pid" != 0 ] && [ "$pid" != "$1" ] && systemctl is-active vxdp@host1; }
gateway_answers() { ip netns exec c1 ping -c1 -W5 10.0.0.1 >/dev/null; }

! dpkg --status vxdp >/dev/null 2>&1 || dpkg --purge vxdp >/dev/null
# The index of all manual pages of the system takes long, and is not ours.
rm -f /var/lib/man-db/auto-update
changed_files >/run/before

# dpkg checks the dependencies against the packages of this system.
dpkg --install vxdp.deb >/run/dpkg.log 2>&1 || fail "dpkg --install: $(cat /run/dpkg.log)"
echo "installed $(vxdp --version)"
for file in $(dpkg --listfiles vxdp); do
    [ -e "$file" ] || fail "$file is not there"
done
for file in lib/systemd/system/vxdp@.service share/man/man8/vxdp.8.gz share/bash-completion/completions/vxdp \
    share/zsh/vendor-completions/_vxdp share/fish/vendor_completions.d/vxdp.fish \
    share/doc/vxdp/docs/getting-started.md share/doc/vxdp/examples/host1.toml share/doc/vxdp/copyright; do
    [ -s "/usr/$file" ] || fail "the package has no /usr/$file"
done
[ -d /etc/vxdp ] || fail "the package has no /etc/vxdp"

MANWIDTH=80 man --warnings vxdp >/run/manual 2>/run/manual.errors || fail "man: $(cat /run/manual.errors)"
[ ! -s /run/manual.errors ] || fail "man: $(cat /run/manual.errors)"
grep -q 'vxdp capture' /run/manual || fail "the manual page is not complete"
echo "manual page of $(wc -l </run/manual) lines"
bash -euc '. /usr/share/bash-completion/completions/vxdp; complete -p vxdp' >/dev/null || fail "bash completions"

# The host of the example: an underlay, and a container.
ip link set lo up
ip link add eth0 type veth peer name peer
ip address add 192.168.10.21/24 dev eth0
ip link set eth0 up
ip link set peer up
ip netns add c1
install -m 644 host1.toml /etc/vxdp/host1.toml
vxdp check --config /etc/vxdp/host1.toml >/run/check 2>&1 || fail "vxdp check: $(cat /run/check)"
cat /run/check

env -u SYSTEMD_UNIT_PATH systemd-analyze verify vxdp@host1.service >/run/verify 2>&1 || fail "verify: $(cat /run/verify)"
if grep vxdp /run/verify; then fail "systemd-analyze verify objects"; fi
env -u SYSTEMD_UNIT_PATH systemd-analyze security --offline=true --threshold=55 vxdp@host1.service >/run/security 2>&1 ||
    fail "systemd-analyze security: $(cat /run/security)"
echo "systemd $(systemctl --version | sed -n '1s/[^0-9]*\([0-9]*\).*/\1/p') security: $(
    sed -n 's/.*Overall exposure level for .*: \([0-9.]*\) .*/\1/p' /run/security)"

systemctl start vxdp@host1 || fail "the service does not start: $(systemctl status vxdp@host1)"
gateway_answers || fail "the container does not reach its gateway"
vxdp mode xdp >/run/mode || fail "no xdp mode"
gateway_answers || fail "the container does not reach its gateway in xdp mode"
echo "ran as a service: $(cat /run/mode)"

pid=$(main_pid)
sed -i 's/^vni = 42$/&\nttl = 9/' /etc/vxdp/host1.toml
systemctl reload vxdp@host1
until_true sh -c 'ip -d -n overlay link show vxlan1 | grep -q "ttl 9"' || fail "reloading changed nothing"
[ "$(main_pid)" = "$pid" ] || fail "reloading started another process"
echo "reloaded without another process"

kill -KILL "$pid"
ip -n overlay link show vxlan1 >/dev/null || fail "the overlay went with the daemon"
until_true another_pid "$pid" || fail "the service is not started again after a crash"
echo "started again after a crash"

pid=$(main_pid)
ip -n overlay link show vxlan1 | sed 1q >/run/overlay
dpkg --install vxdp.deb >/run/dpkg.log 2>&1 || fail "upgrade: $(cat /run/dpkg.log)"
until_true another_pid "$pid" || fail "the upgrade did not start the daemon anew"
ip -n overlay link show vxlan1 | sed 1q | cmp -s - /run/overlay || fail "the upgrade made another overlay"
gateway_answers || fail "the container does not reach its gateway after an upgrade"
echo "upgraded over the same overlay"

env -u SYSTEMD_UNIT_PATH systemctl --root=/ enable vxdp@host1 >/dev/null 2>&1 || fail "it cannot be enabled"
dpkg --remove vxdp >/run/dpkg.log 2>&1 || fail "dpkg --remove: $(cat /run/dpkg.log)"
[ "$(main_pid)" = 0 ] || fail "removing the package left the daemon running"
gateway_answers || fail "removing the package took the overlay along"
[ -e /etc/vxdp/host1.toml ] || fail "removing the package took the configuration along"
[ ! -e /usr/bin/vxdp ] || fail "removing the package left the program"

# It comes back, and takes its overlay away.
dpkg --install vxdp.deb >/run/dpkg.log 2>&1 || fail "dpkg --install, again: $(cat /run/dpkg.log)"
vxdp down --config /etc/vxdp/host1.toml >/dev/null || fail "vxdp down"
[ ! -e /run/netns/overlay ] || fail "vxdp down left the overlay"

# The tarball's program does as well, where it was unpacked.
if [ -e vxdp.tar.gz ]; then
    mkdir /run/unpacked
    tar --extract --file vxdp.tar.gz --directory /run/unpacked --strip-components=1
    program=/run/unpacked/usr/bin/vxdp
    "$program" run --config /etc/vxdp/host1.toml --mode kernel >/run/vxdp-try.log 2>&1 &
    until_true "$program" status || fail "the tarball's program does not start"
    for mode in kernel xdp 'xdp --engine inkernel'; do
        # shellcheck disable=SC2086
        "$program" mode $mode >/run/mode || fail "the tarball's program has no mode $mode"
        gateway_answers || fail "the container does not reach its gateway with the tarball's program in mode $mode"
        echo "ran from the tarball: $(cat /run/mode)"
    done
    "$program" down --config /etc/vxdp/host1.toml >/dev/null || fail "down, by the tarball's program"
    wait
    rm -r /run/unpacked
fi
rm /etc/vxdp/host1.toml
dpkg --purge vxdp >/run/dpkg.log 2>&1 || fail "dpkg --purge: $(cat /run/dpkg.log)"
[ ! -e /etc/vxdp ] || fail "purging left /etc/vxdp"
changed_files >/run/after
cmp -s /run/before /run/after || fail "purging left $(diff /run/before /run/after | grep '^>')"
echo "removed without a trace"
