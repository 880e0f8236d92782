#!/bin/bash
# with-systemd.sh CMD [ARG...]: runs CMD under a real systemd of its own.
#
# Boots a system manager as PID 1 of a private PID namespace over the host's own root, with journald and
# D-Bus and nothing that the host has enabled; runs CMD inside, where systemctl, journalctl and systemd-run
# work; shuts the manager down, leaves nothing behind and exits with CMD's status.
#
#   /etc /usr /var        overlays in memory: installed files, units and state vanish with the run
#   /run /dev/shm         fresh tmpfs
#   the rest ($PWD, /tmp, $HOME, /dev)   the host's
#   PIDs, mounts, cgroup subtree, host name, System V IPC   private; the network is the host's
#
# Exit status 125: the manager did not come up (the reason is on stderr), CMD was not run.
# Environment: WITH_SYSTEMD_BOOT=20, WITH_SYSTEMD_STOP=15 (seconds), WITH_SYSTEMD_DEBUG=1 (boot log to stderr).
# Inside, WITH_SYSTEMD=1 is set; called there again it just runs CMD.
# Needs: root, a cgroup2 mount, systemd, util-linux, coreutils >= 8.31; dbus for busctl and systemd-run --wait.
set -u

fail() {
  echo "with-systemd: $*" >&2
  exit 125
}

# --------------------------------------------------------------------- inside: becomes PID 1, the manager
#
# stdin is /dev/null, stdout and stderr are the boot log, descriptor 3 is where our PID outside is told.

prepare_mounts() {
  local store=$1 d

  mount -t proc -o nosuid,nodev,noexec proc /proc
  mount --bind /proc/sys /proc/sys # the manager must not retune the host's kernel
  mount -o remount,bind,ro /proc/sys
  mount -o remount,bind,ro /sys 2>/dev/null || mount -t sysfs -o ro sysfs /sys
  mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm
  for d in /dev/console /dev/kmsg; do
    if [ -e $d ]; then mount --bind /dev/null $d; fi
  done

  # The overlays' store is a tmpfs of this namespace: nothing ever reaches the host's disk.
  mount -t tmpfs -o mode=0755 store "$store"
  for d in etc usr var; do # var last: the store's own path may lie in it
    mkdir -p "$store/$d/upper" "$store/$d/work"
    mount -t overlay -o "lowerdir=/$d,upperdir=$store/$d/upper,workdir=$store/$d/work" overlay "/$d"
  done
  mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs /run
  mkdir -p /run/lock /run/systemd/system
  chmod 1777 /run/lock
}

# Targets, slices, journald and D-Bus stay; every other unit that something wants is masked.
prepare_units() {
  local etc=/etc/systemd link unit

  rm -rf $etc/system
  mkdir -p $etc/system $etc/journald.conf.d $etc/system.conf.d
  for link in /lib/systemd/system/*.wants/*; do
    unit=${link##*/}
    case $unit in
      getty.target | systemd-journald-audit.socket) ;;
      *.target | *.slice | systemd-journald* | dbus.*) continue ;;
    esac
    ln -sfn /dev/null $etc/system/"$unit"
  done
  cat >$etc/system/with-systemd.target <<-END
	[Unit]
	Description=The run of with-systemd.sh
	Requires=basic.target
	Wants=multi-user.target
	After=basic.target multi-user.target
	AllowIsolate=yes
	END
  cat >$etc/journald.conf.d/with-systemd.conf <<-END
	[Journal]
	Storage=volatile
	Audit=
	ReadKMsg=no
	RateLimitIntervalSec=0
	ForwardToSyslog=no
	ForwardToKMsg=no
	ForwardToConsole=no
	ForwardToWall=no
	END
  cat >$etc/system.conf.d/with-systemd.conf <<-END
	[Manager]
	DefaultTimeoutStopSec=10s
	ShowStatus=no
	LogTarget=journal
	END
  if [ ! -s /etc/machine-id ]; then
    rm -f /etc/machine-id
    tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
  fi
}

become_manager() {
  local outer
  set -e
  if [ -n "${WITH_SYSTEMD_DEBUG-}" ]; then set -x; fi
  read -r outer _ </proc/self/stat # still the host's /proc: our PID as the outside sees it
  prepare_mounts "$WITH_SYSTEMD_DIR/store"
  prepare_units
  mount --make-rshared /
  echo "$outer" >&3
  cd /
  exec 3>&- env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    TERM=dumb LANG=C.UTF-8 container=with-systemd SYSTEMD_GENERATOR_PATH=/nonexistent \
    /lib/systemd/systemd --system --unit=with-systemd.target --show-status=0
}

# --------------------------------------------------------------------- outside

dir=''      # scratch directory of this run, on the host
cg=''       # cgroup of this run
manager=''  # PID of systemd, as seen from here
holder=''   # PID of unshare, the manager's parent; ends when the whole namespace has ended
command=''  # PID of CMD's wrapper
enter=()    # prefix that runs a command inside

alive() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }

# Scratch directories and cgroups carry the PID of their run; a run that was SIGKILLed leaves them.
sweep() {
  local left pid
  for left in "$1"/with-systemd.* "$2"/with-systemd.*; do
    pid=${left##*/with-systemd.}
    pid=${pid%%.*}
    if [ ! -d "$left" ] || [ -z "$pid" ] || [ -n "${pid//[0-9]/}" ] || alive "$pid"; then continue; fi
    case $left in
      "$1"/*) find "$left" -depth -type d -exec rmdir {} + 2>/dev/null ;;
      *) rm -rf --one-file-system "$left" ;;
    esac
  done
}

# setpriv and --kill-child: even a SIGKILL of this script ends everything inside.
start_manager() {
  mkfifo "$dir/pid" || fail "mkfifo in $dir"
  (
    echo "$BASHPID" >"$cg/cgroup.procs" || exit 1
    exec env WITH_SYSTEMD_STAGE=manager WITH_SYSTEMD_DIR="$dir" \
      setsid setpriv --pdeathsig KILL \
      unshare --mount --pid --fork --kill-child=KILL --cgroup --uts --ipc \
      bash "$(readlink -f "${BASH_SOURCE[0]}")"
  ) </dev/null >"$dir/boot.log" 2>&1 3>"$dir/pid" &
  holder=$!
}

await_manager() {
  local state='' pid='' deadline=$((SECONDS + ${WITH_SYSTEMD_BOOT:-20}))
  read -r -t "${WITH_SYSTEMD_BOOT:-20}" pid <"$dir/pid" || boot_failed "ended while booting"
  manager=$pid
  enter=(nsenter -t "$manager" --mount --pid --cgroup --uts --ipc)
  until [[ $state == @(running|degraded|maintenance) ]]; do
    if [ -S "/proc/$manager/root/run/systemd/private" ]; then
      state=$("${enter[@]}" timeout 5 systemctl is-system-running 2>/dev/null </dev/null)
    fi
    alive "$holder" || boot_failed "ended while booting"
    [ $SECONDS -le $deadline ] || boot_failed "did not answer in time"
    sleep 0.02
  done
  # unshare is not in the manager's own root, from where controllers could not be passed on then.
  mapfile -t pids <"$cg/cgroup.procs"
  for pid in "${pids[@]}"; do echo "$pid" >"$cg/cmd/cgroup.procs"; done 2>/dev/null
  if [ "$state" != running ]; then
    echo "with-systemd: the manager is $state:" >&2
    "${enter[@]}" sh -c 'systemctl --failed --no-pager --plain; journalctl -b --no-pager -n 30' >&2 </dev/null
  fi
}

boot_failed() {
  cat "$dir/boot.log" >&2
  fail "the manager $1 (its log is above; WITH_SYSTEMD_DEBUG=1 says more)"
}

# CMD's wrapper is a bash that is a plain child of ours (--no-fork), not nsenter's own fork: nsenter stops
# itself when its child is stopped, systemd-shutdown stops all that is left before it kills, and nobody
# would reap: the shutdown would hang.
run_command() {
  (
    echo "$BASHPID" >"$cg/cmd/cgroup.procs"
    # shellcheck disable=SC2016  # the inner bash expands these
    exec env --default-signal=INT,QUIT WITH_SYSTEMD=1 SYSTEMD_PAGER='' PAGER=cat SYSTEMD_COLORS=0 \
      "${enter[@]}" --no-fork bash -c 'cd "$1" && shift && "$@"; exit $?' with-systemd "$PWD" "$@"
  ) <&0 &
  command=$!
  wait "$command"
  local status=$?
  command=''
  return $status
}

# shellcheck disable=SC2317,SC2329  # called by the trap
teardown() {
  trap '' INT TERM HUP
  local i
  if alive "$manager" && alive "$holder"; then
    kill -s RTMIN+4 "$manager" 2>/dev/null # poweroff.target, in order
    for ((i = ${WITH_SYSTEMD_STOP:-15} * 20; i > 0; i--)); do
      alive "$holder" || break
      sleep 0.05
    done
  fi
  if alive "$holder"; then
    [ -z "$manager" ] || echo "with-systemd: shutdown took too long: killed" >&2
    # shellcheck disable=SC2086  # an unset one vanishes
    kill -s KILL $manager $holder $command 2>/dev/null
  fi
  [ -z "$holder" ] || wait "$holder" 2>/dev/null
  [ -z "$command" ] || wait "$command" 2>/dev/null
  [ -z "${WITH_SYSTEMD_DEBUG-}" ] || cat "$dir/boot.log" >&2
  for ((i = 0; i < 40; i++)); do # the kernel lets go of a cgroup a moment after its last process
    find "$cg" -depth -type d -exec rmdir {} + 2>/dev/null
    [ -d "$cg" ] || break
    sleep 0.05
  done
  rm -rf --one-file-system "$dir"
}

main() {
  local mount tmp=${TMPDIR:-/tmp}
  [ $# -gt 0 ] || fail "usage: with-systemd.sh CMD [ARG...]"
  [ -z "${WITH_SYSTEMD-}" ] || exec "$@"
  [ "$(id -u)" = 0 ] || fail "needs root (it makes namespaces and cgroups): run it with sudo"
  [ -x /lib/systemd/systemd ] || fail "no /lib/systemd/systemd: apt-get install systemd"
  mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
  [ -n "$mount" ] || fail "no cgroup2 mount: mount -t cgroup2 none /sys/fs/cgroup"
  { : <&0; } 2>/dev/null || exec </dev/null # started without stdin

  sweep "$mount" "$tmp"
  cg=$mount/with-systemd.$$
  dir=$(mktemp -d "$tmp/with-systemd.$$.XXXXXX") || fail "no scratch directory in $tmp"
  trap teardown EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # For tests of cgroups; elsewhere systemd does it for its own controllers. It stays, and means nothing to cgroups that do not ask for it.
  if grep -qw hugetlb "$mount/cgroup.controllers"; then echo +hugetlb >"$mount/cgroup.subtree_control"; fi
  mkdir "$dir/store" "$cg" "$cg/cmd" || fail "cannot make the cgroup $cg"
  start_manager
  await_manager
  run_command "$@"
}

if [ "${WITH_SYSTEMD_STAGE-}" = manager ]; then
  become_manager
else
  main "$@"
fi
