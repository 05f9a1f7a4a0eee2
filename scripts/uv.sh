#!/bin/sh
# Runs uv: the one on PATH, else one that it installs into .venv-uv with a Python of this machine.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "ignite: $*" >&2
    exit 1
}

# A pyenv shim may be on PATH without its Python, so each candidate is run.
find_python() {
    for name in python3.11 python3.12 python3.13 python3 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
}

# With these settings pip would refuse to install into a virtual environment, so they are unset.
pip_install() {
    env -u PIP_TARGET -u PIP_PREFIX PIP_USER=0 .venv-uv/bin/python -m pip install --quiet "$1" >&2
}

# The tested version; another one if the package index does not have it.
UV_VERSION=0.13.9

install_uv() {
    rm -rf .venv-uv
    "$UV_PYTHON" -m venv .venv-uv >&2 || {
        rm -rf .venv-uv
        fail "$UV_PYTHON cannot make a virtual environment; on Debian and Ubuntu install python3-venv."
    }
    pip_install "uv==$UV_VERSION" 2>/dev/null || pip_install uv || {
        rm -rf .venv-uv
        fail "pip could not install uv; see its message above."
    }
}

UV_PYTHON=$(find_python)
[ -n "$UV_PYTHON" ] || fail "Python 3.11 or newer is needed and none is on PATH."
export UV_PYTHON UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT="${UV_PROJECT_ENVIRONMENT:-.venv}"
unset VIRTUAL_ENV

works() {
    "$1" --version >/dev/null 2>&1
}

uv=uv
if ! works "$uv"; then
    uv=.venv-uv/bin/uv
    works "$uv" || install_uv
fi
exec "$uv" "$@"
