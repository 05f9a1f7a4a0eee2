#!/bin/sh
# install.sh [--dev]: installs the packages of uv.lock into .venv. Returns at once if they are installed.
set -eu
cd "$(dirname "$0")/.."

wanted="$(cat uv.lock pyproject.toml | cksum) $PWD"

is_installed() {
    [ "$(cat ".venv/.installed-$1" 2>/dev/null)" = "$wanted" ]
}

# The scripts of a virtual environment contain its path, so a copied or moved environment is removed.
is_from_elsewhere() {
    [ -e .venv/.checkout ] && [ "$(cat .venv/.checkout)" != "$PWD" ]
}

# The only system library that the wheels need and a minimal Debian lacks.
has_openmp() {
    [ "$(uname)" != Linux ] || .venv/bin/python -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null
}

case "${1:-}" in
    --dev) kind=dev options= ;;
    *) kind=run options="--no-dev --inexact" ;;
esac

if is_installed "$kind" || is_installed dev; then
    exit 0
fi
if is_from_elsewhere; then
    rm -rf .venv
fi

echo "ignite: installing into .venv" >&2
# shellcheck disable=SC2086 # two words
UV_PROJECT_ENVIRONMENT=.venv scripts/uv.sh sync --frozen --quiet $options
if ! has_openmp && ! { scripts/apt-install.sh libgomp1 && has_openmp; }; then
    echo "ignite: llama.cpp needs the OpenMP library libgomp.so.1: sudo apt-get install libgomp1" >&2
    exit 1
fi
echo "$PWD" >.venv/.checkout
echo "$wanted" >".venv/.installed-$kind"
