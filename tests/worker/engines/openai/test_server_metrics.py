"""What a server tells of itself at /metrics."""

import asyncio

import pytest

from shared.ports import EngineState
from tests.support.wait_until import wait_until
from tests.worker.engines.upstream_server import UpstreamServer
from worker.engines.open_engine import EngineSettings, open_engine
from worker.engines.openai import server_metrics
from worker.engines.openai.server_metrics import state_in

# As vLLM 0.32 writes it, shortened.
VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_running{engine="1",model_name="tiny"} 2.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="tiny"} 0.5
vllm:prefix_cache_queries_total{engine="0",model_name="tiny"} 1.28e+06
vllm:prefix_cache_queries_created{engine="0",model_name="tiny"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 64.0
vllm:num_preemptions_total{engine="0",model_name="tiny"} 1.0
"""
STATE = EngineState(5, 7, 0.5, prefix_cache_queries=1_280_000, prefix_cache_hits=64, preemptions=1)


def test_vllms_state_is_read() -> None:
    assert state_in(VLLM) == STATE
    assert state_in('vllm:num_requests_running{a="b"} 1.0\n') == EngineState(running=1)


@pytest.mark.parametrize("text", ["", "<html>vllm:num_requests_running</html>", "process_open_fds 9.0", '{"data":[]}'])
def test_anything_else_is_no_state(text: str) -> None:
    assert state_in(text) is None


async def test_a_server_that_tells_is_asked_again(monkeypatch: pytest.MonkeyPatch, upstream: UpstreamServer) -> None:
    monkeypatch.setattr(server_metrics, "EVERY", 0.01)
    upstream.metrics = VLLM
    engine = open_engine(EngineSettings("openai", url=upstream.url))
    await engine.start()
    assert engine.state == STATE
    upstream.metrics = VLLM.replace(" 3.0", " 0.0")
    await wait_until(lambda: engine.state is not None and engine.state.running == 2, "the next look")
    upstream.metrics = None
    asked = upstream.metrics_asked
    await wait_until(lambda: upstream.metrics_asked > asked + 1, "two looks in vain")
    assert engine.state is not None, "what it told last holds"
    await engine.close()
    assert engine.state is None


async def test_a_server_that_does_not_tell_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, upstream: UpstreamServer
) -> None:
    monkeypatch.setattr(server_metrics, "EVERY", 0.0)
    engine = open_engine(EngineSettings("openai", url=upstream.url))
    await engine.start()
    assert (engine.state, upstream.metrics_asked) == (None, 1)
    assert "engine-metrics" not in {task.get_name() for task in asyncio.all_tasks()}
    await engine.close()
