#!/bin/sh
# test-vllm.sh [--vllm-url URL] [PYTEST ARGUMENT…]: the tests that need vLLM, with one on this machine's CPU or with the one
# at URL.
set -eu
cd "$(dirname "$0")/.."

scripts/install-servers.sh >/dev/null
case " $* " in
    *" --vllm-url"*) ;;
    *)
        IGNITE_TEST_VLLM_VENV=$(scripts/install-vllm.sh)
        export IGNITE_TEST_VLLM_VENV
        ;;
esac
exec .venv/bin/python -m pytest -n 0 -m vllm tests/vllm "$@"
