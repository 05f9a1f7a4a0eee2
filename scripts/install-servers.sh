#!/bin/sh
# Provides RabbitMQ, Redis and Chromium for the tests: the installed ones, else from apt-get. If a Docker engine must
# provide the servers, it prints "docker". It names what is missing; tests that need it are skipped, or fail if CI=true.
set -eu
cd "$(dirname "$0")/.."

missing() {
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null || echo rabbitmq-server
    command -v redis-server >/dev/null || echo redis-server
    command -v chromium >/dev/null || echo chromium
    command -v chromedriver >/dev/null || echo chromium-driver
}

packages=$(missing | paste -s -d ' ')
[ -n "$packages" ] || exit 0

# shellcheck disable=SC2086 # one word a package
if scripts/apt-install.sh $packages; then
    exit 0
elif docker info >/dev/null 2>&1; then
    echo docker
else
    echo "ignite: to run every test, install what is missing (sudo apt-get install $packages) or start Docker." >&2
fi
