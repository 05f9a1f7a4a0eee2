#!/bin/sh
# apt-install.sh PACKAGE…: installs Debian packages. Needs root or a sudo without a password, else it fails at once.
# Installed servers are not started, now or at boot: the tests start their own servers on free ports.
set -eu

command -v apt-get >/dev/null || exit 1
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || exit 1
    exec sudo -n "$0" "$@"
fi

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
epmd= # Erlang's daemon, a dependency of RabbitMQ
command -v epmd >/dev/null || epmd="epmd.service epmd.socket"

export DEBIAN_FRONTEND=noninteractive
echo "ignite: installing $* with apt-get" >&2
apt-get update -qq >&2 || echo "ignite: apt-get update failed; going on with the package lists that are here" >&2
apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 "$@" >/dev/null

if [ -d /run/systemd/system ]; then
    for unit in "$@" $epmd; do
        systemctl disable --quiet "$unit" 2>/dev/null || true
    done
fi
