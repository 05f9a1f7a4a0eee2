"""`ignite --help` loads no server, driver or HTTP client: their imports would take longer than the rest."""

import subprocess
import sys

HEAVY = {"aio_pika", "aiohttp", "aiormq", "fastapi", "grpc", "llama_cpp", "redis", "starlette", "uvicorn", "uvloop"}


def test_the_help_imports_no_heavy_module() -> None:
    script = (
        "import sys; from ignite.cli import cli; cli(['--help'], standalone_mode=False); print(*sys.modules, sep=' ')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Serve LLM completions" in done.stdout
    assert HEAVY & set(done.stdout.splitlines()[-1].split()) == set()
