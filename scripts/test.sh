#!/bin/sh
# test.sh [PYTEST ARGUMENT…]: the checks, then the tests, in a few processes side by side, each with servers of its own;
# both are run and reported whichever fails.
set -u # no -e: what fails is reported at the end
cd "$(dirname "$0")/.." || exit

servers=$(scripts/install-servers.sh)
[ "$servers" != docker ] || export IGNITE_TEST_DOCKER=1

checks=passed tests=passed
"${MAKE:-make}" --no-print-directory check || checks=FAILED
.venv/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal "$@" || tests=FAILED

echo "checks $checks, tests $tests"
[ "$checks $tests" = "passed passed" ]
