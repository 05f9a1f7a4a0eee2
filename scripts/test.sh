#!/bin/sh
# test.sh [PYTEST ARGUMENT…]: runs the checks, then the tests in a few processes, each with servers of its own. It runs
# and reports both, even if the checks fail.
set -u # no -e: failures are reported at the end
cd "$(dirname "$0")/.." || exit

servers=$(scripts/install-servers.sh)
[ "$servers" != docker ] || export IGNITE_TEST_DOCKER=1

checks=passed tests=passed
"${MAKE:-make}" --no-print-directory check || checks=FAILED
.venv/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal "$@" || tests=FAILED

echo "checks $checks, tests $tests"
[ "$checks $tests" = "passed passed" ]
