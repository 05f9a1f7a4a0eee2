"""What workers of another version announced is read as far as it is known."""

from dataclasses import asdict

import orjson

from shared.backends.announced import decode_model, decode_worker
from tests.contract.performers import a_worker


def test_what_was_announced_is_read_back() -> None:
    worker = a_worker()
    assert decode_worker(orjson.loads(orjson.dumps(asdict(worker)))) == worker


def test_a_newer_worker_says_more_and_an_older_one_less() -> None:
    model = asdict(a_worker().model)
    assert decode_model(model | {"languages": ["en"]}) == decode_model(model)
    older = {name: value for name, value in model.items() if name not in ("aliases", "modalities")}
    assert (decode_model(older).aliases, decode_model(older).modalities) == ((), ())
    worker = a_worker()
    assert decode_worker(asdict(worker) | {"gpu": "H200"}) == worker
