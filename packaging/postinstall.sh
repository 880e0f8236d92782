#!/bin/sh
# After the files are there. deb: configure [OLD VERSION]; rpm: 1 for an installation, 2 for an upgrade.
#
# Nothing is enabled or started by an installation: the configuration is an example until somebody has made it theirs. An upgrade puts the
# new program into the place of every daemon that runs, with no worker restarted and no message lost; where that is not possible the old
# one goes on, which is said and is no failure of the upgrade.
set -e

upgraded=
case "${1-}" in
  configure) [ -z "${2-}" ] || upgraded=1 ;;
  2) upgraded=1 ;;
  1) ;;
  *) exit 0 ;;
esac

if command -v systemd-sysusers >/dev/null; then
  systemd-sysusers shmd.conf
fi
if command -v systemd-tmpfiles >/dev/null; then
  systemd-tmpfiles --create shmd.conf || :
fi
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || :
  if [ -n "$upgraded" ]; then
    systemctl list-units --plain --no-legend --state=active 'shmd.service' 'shmd@*.service' | while read -r unit _; do
      region=default
      case $unit in shmd@*) region=${unit#shmd@} region=${region%.service} ;; esac # as %i in the unit: a "-" is a "-"
      if ! shmctl --region="$region" --timeout=60s upgrade; then
        echo "shmd: region $region goes on with the program from before; look at: journalctl -u $unit" >&2
      fi
    done
  fi
fi
exit 0
