#!/bin/sh
# After the files went. deb: remove, then perhaps purge; rpm: 0 for a removal. The user stays, as files somewhere may be its own.
set -e

case "${1-}" in
  remove | purge | 0) ;;
  *) exit 0 ;;
esac

if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || :
fi
if [ "${1-}" = purge ]; then
  rm -rf /var/lib/shmd /run/shmd
  rmdir /etc/shmd 2>/dev/null || : # empty, unless somebody has put files of their own there
fi
exit 0
