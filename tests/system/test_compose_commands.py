"""Runs the commands of docker-compose.yml with their settings, without Docker, on private servers."""

import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from tests.support.chat import session_with
from tests.support.run_process import RunningProcess, run_process
from tests.support.server import free_ports
from tests.system.test_compose import SERVICES

KEY = "a-key-of-ours-0123456789"


def service(name: str, servers: Mapping[str, str]) -> AbstractAsyncContextManager[RunningProcess]:
    """Fills in host names and secrets, as Docker would; everything else is unchanged."""
    settings = {key: str(value) for key, value in SERVICES[name]["environment"].items()}
    return run_process(sys.executable, "-m", "ignite", *SERVICES[name]["command"], env={**settings, **servers})


async def test_the_services_answer_with_the_demo_model(amqp_url: str, redis_url: str) -> None:
    (port,) = free_ports(1)
    servers = {"IGNITE_AMQP_URL": amqp_url, "IGNITE_REDIS_URL": redis_url}
    outside = {"IGNITE_PORT": str(port), "IGNITE_GRPC_PORT": "0", "IGNITE_API_KEYS": f"me={KEY}"}

    async with service("api", {**servers, **outside}) as api, service("worker", servers) as worker:
        await api.wait_for("ignite api is ready")
        found = await worker.wait_for(r"ignite worker is ready: model (\S+)")
        async with session_with(f"http://127.0.0.1:{port}") as session:
            session.headers["authorization"] = f"Bearer {KEY}"
            async with session.post("/v1/chat/completions", json=request_for(found[1])) as response:
                answer = await response.json()

    assert response.status == 200, answer
    assert answer["choices"][0]["message"]["content"]


def request_for(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Say this is a test!"}]}
