#!/bin/sh
# Before the files go. deb: remove, or upgrade NEW VERSION; rpm: 0 for a removal, 1 for an upgrade. An upgrade stops nothing.
set -e

case "${1-}" in
  remove | deconfigure | 0) ;;
  *) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
  # shellcheck disable=SC2046 # a list of units
  systemctl disable --now --quiet shmd.socket shmd.service $(systemctl list-units --plain --no-legend 'shmd@*.service' | awk '{ print $1 }') || :
  systemctl disable --quiet shmd@.service || : # of all regions, also those that do not run
fi
exit 0
