#!/bin/sh
# Makes sure that what `make bench` calls is installed: gcc, and the peers that are measured beside shmd, from Debian.
# As root it installs what is missing; otherwise it prints the command that does. A peer that cannot be installed is left out of the table, and the
# table says so: only a missing compiler is an error.
set -u

# path of a file or command, and the package that has it
wanted='
gcc                                                        gcc
g++                                                        g++
/usr/include/stdio.h                                       libc6-dev
iox-roudi                                                  iceoryx
/usr/include/iceoryx/*/iceoryx_posh/popo/wait_set.hpp      libiceoryx-posh-dev
/usr/include/iceoryx/*/iceoryx_hoofs/cxx/string.hpp        libiceoryx-hoofs-dev
/usr/include/boost/interprocess/ipc/message_queue.hpp      libboost-dev
/usr/include/zmq.h                                         libzmq3-dev
/usr/include/nng/nng.h                                     libnng-dev
/usr/include/qb/qbipcs.h                                   libqb-dev
'

missing=$(echo "$wanted" | while read -r what package; do
  case $what in
    '') ;;
    /*)
      # shellcheck disable=SC2086  # a pattern
      ls $what >/dev/null 2>&1 || echo "$package"
      ;;
    *) command -v "$what" >/dev/null || echo "$package" ;;
  esac
done | sort -u)

if [ -n "$missing" ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "bench: not installed, and so not measured: $(echo "$missing" | tr '\n' ' ')" >&2
    echo "bench: sudo apt-get install -y --no-install-recommends $(echo "$missing" | tr '\n' ' ')" >&2
  else
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || :
    for package in $missing; do # each by itself: one that this Debian lacks must not keep the others away
      echo "bench: installing $package" >&2
      apt-get install -y -qq --no-install-recommends "$package" </dev/null >/dev/null || echo "bench: cannot install $package: it will not be measured" >&2
    done
  fi
fi
command -v gcc >/dev/null || { echo "bench: no gcc: the references are in C" >&2; exit 1; }
