"""Health, readiness, metrics and the catalog."""

from tests.producer.api import Api, ask


async def test_liveness_and_readiness(api: Api) -> None:
    assert (await api.get("/healthz")).json == {"status": "ok"}
    assert (await api.get("/readyz")).json == {"status": "ok", "checks": {"database": "ok"}}


async def test_readiness_names_the_broker_and_the_store(distributed_api: Api) -> None:
    assert (await distributed_api.get("/readyz")).json["checks"] == {"broker": "ok", "store": "ok"}


async def test_a_background_task_that_dies_makes_the_replica_not_ready(api: Api) -> None:
    async def die() -> None:
        raise RuntimeError("for no reason")

    health = api.server.config.app.state.context.health
    health.run("mortal", die())
    while not health.dead_tasks:
        await api.get("/healthz")
    answer = await api.get("/readyz")
    assert (answer.status, "mortal" in answer.json["checks"]) == (503, True)


async def test_metrics_count_calls_and_read_queues(idle_api: Api) -> None:
    await idle_api.submit(ask())
    async with idle_api.worker():
        await idle_api.post(ask())
        idle_api.engine.gate.clear()
        answer = await idle_api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.body.decode().splitlines()
    assert 'ignite_workers{model="simulated"} 1.0' in lines
    assert 'ignite_queue_depth{model="simulated",tier="default"} 0.0' in lines
    assert any(line.startswith('ignite_calls_ended_total{ending="completed",model="simulated"}') for line in lines)
    assert 'ignite_open_calls{mode="unary"} 0.0' in lines


async def test_the_catalog_lists_models_as_openai_does(api: Api) -> None:
    answer = await api.get("/v1/models")
    (model,) = answer.json["data"]
    assert answer.json["object"] == "list"
    assert (model["id"], model["object"], model["owned_by"]) == ("simulated", "model", "ignite")
    assert isinstance(model["created"], int)
    assert (await api.get("/v1/models/simulated")).json == model


async def test_an_unknown_model_is_not_found(api: Api) -> None:
    answer = await api.get("/v1/models/other/one")
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
