#!/bin/sh
# proto.sh [--check]: generates Python code beside shared/proto/**/*.proto. With --check it only compares the two.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"

sources=$(cd shared/proto && find . -name '*.proto' | sed 's|^\./||')
out=shared/proto
if [ "${1:-}" = --check ]; then
    buf lint shared/proto
    buf format --diff --exit-code shared/proto
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi

# shellcheck disable=SC2086 # one word a file
python -m grpc_tools.protoc -I shared/proto --python_out="$out" --pyi_out="$out" $sources

[ "$out" != shared/proto ] || exit 0
for source in $sources; do
    for generated in "${source%.proto}_pb2.py" "${source%.proto}_pb2.pyi"; do
        cmp -s "$out/$generated" "shared/proto/$generated" || {
            echo "ignite: shared/proto/$generated is not what $source says: make proto" >&2
            exit 1
        }
    done
done
