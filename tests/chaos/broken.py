"""`python -m tests.chaos.broken NAME api|worker …`: Ignite without one safeguard. The campaign must detect that."""

import hashlib
import re
import sys
from collections.abc import Callable, Mapping

from ignite.cli import cli
from shared.backends.rabbitmq.consumer import RabbitConsumer, RabbitDelivery
from shared.backends.redis.connection import scripts
from shared.ports import Choose, Delivery

OF_ANOTHER_ATTEMPT = re.compile(r"running ~= attempt")


class Unfenced(scripts.Script):
    """Removes fencing: the Lua steps accept writes of any attempt."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.source = OF_ANOTHER_ATTEMPT.sub("false", self.source)
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


def fencing_off() -> None:
    for name in ("append", "renew", "finish", "release"):
        assert scripts.Script(name).sha != Unfenced(name).sha, f"{name}.lua compares attempts in another way by now"
    scripts.Script = Unfenced


def ack_first() -> None:
    """Acknowledges a delivery at once, so that the broker forgets a job that has not run yet."""
    take, acknowledge = RabbitConsumer.next, RabbitDelivery.ack

    async def take_and_acknowledge(self: RabbitConsumer, choose: Choose | None = None) -> Delivery:
        delivery = await take(self, choose)
        assert isinstance(delivery, RabbitDelivery)
        await acknowledge(delivery)
        return delivery

    async def nothing(self: RabbitDelivery) -> None:
        pass

    RabbitConsumer.next = take_and_acknowledge
    RabbitDelivery.ack = nothing


BUILDS: Mapping[str, Callable[[], None]] = {"fencing-off": fencing_off, "ack-first": ack_first}

if __name__ == "__main__":
    BUILDS[sys.argv[1]]()
    cli(sys.argv[2:], prog_name="ignite")
