#!/bin/sh
# test-vllm.sh [--vllm-url URL] [PYTEST ARGUMENT…]: runs the tests that need vLLM, against the server at URL or against
# one that they start on this machine's CPU.
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
