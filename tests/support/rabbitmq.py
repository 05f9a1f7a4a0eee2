"""A private RabbitMQ: one node per test run (it takes some ten seconds), a fresh virtual host per test.

Tests that kill nodes have nodes of their own: one, or a cluster of three.
"""

import asyncio
import base64
import http.client
import json
import shutil
import subprocess
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from tests.support.server import ContainerServer, HostServer, Server, accepts_connections, free_ports
from tests.support.wait_until import wait_until

IMAGE = "rabbitmq:4.1.4-management"

# The broker's counts are at most a second old, not ten, so that a test can wait for them.
CONFIGURATION = """\
collect_statistics_interval = 250
"""
ADVANCED_CONFIGURATION = """\
[{rabbit, [{quorum_tick_interval, 100}]},
 {rabbitmq_management, [{sample_retention_policies,
                         [{global, [{60, 1}]}, {basic, [{60, 1}]}, {detailed, [{60, 1}]}]}]}].
"""

# Idle schedulers would spin and take the cores from the tests; two schedulers are enough.
ERLANG_ARGUMENTS = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"


HEADERS = {
    "Authorization": f"Basic {base64.b64encode(b'guest:guest').decode()}",
    "Content-Type": "application/json",
}


@dataclass(frozen=True)
class QueueCounters:
    """The message counts of a queue; None until the broker has counted for the first time."""

    name: str
    messages_ready: int | None
    messages_unacknowledged: int | None


class Node(Server, Protocol):
    def control(self, *arguments: str) -> str:
        """Runs `rabbitmqctl` for this node, and returns its output."""
        ...


class RabbitMQ:
    def __init__(self, node: Node, amqp_port: int, management_port: int, name: str = "") -> None:
        self.name = name
        self._node = node
        self.amqp_port = amqp_port
        self.management_port = management_port
        self._created: set[str] = set()

    def url(self, vhost: str, port: int | None = None) -> str:
        """Returns the URL of the node, or of a proxy's port in front of it."""
        return f"amqp://guest:guest@127.0.0.1:{port or self.amqp_port}/{vhost}"

    async def start(self) -> None:
        self._created.clear()
        self._node.start()
        await self._ready()

    async def _ready(self) -> None:
        await wait_until(
            self._answers_or_ended,
            "RabbitMQ to answer",
            within=240,
            seen=self._node.output,
        )
        if not self._node.is_running():
            raise RuntimeError(f"RabbitMQ ended at its start:\n{self._node.output()}")

    async def _answers_or_ended(self) -> bool:
        """Whether the node answers or has ended. Asked in a thread, because a starting node may take long to answer."""
        return await asyncio.to_thread(self._answers) or not self._node.is_running()

    async def stop(self) -> None:
        await self._node.stop()

    async def kill(self) -> None:
        await self._node.kill()

    async def restart(self) -> None:
        """Stops and starts the node. The stop takes ten seconds, five of them for the management plugin; `kill` is
        quicker.
        """
        await self.stop()
        await self.start()

    async def close(self) -> None:
        await self._node.close()

    def pause(self) -> None:
        self._node.pause()

    def resume(self) -> None:
        self._node.resume()

    async def ensure_running(self) -> None:
        """Starts or resumes the server if the last test left it stopped or paused."""
        if not self._node.is_running():
            return await self.start()
        self.resume()
        return await self._ready()

    @asynccontextmanager
    async def memory_alarm(self) -> AsyncGenerator[None]:
        """Raises an alarm, so that the broker stops reading from connections that publish."""
        await self._control("set_vm_memory_high_watermark", "absolute", "1")
        try:
            yield
        finally:
            await self._control("set_vm_memory_high_watermark", "0.4")

    @asynccontextmanager
    async def consumer_timeout(self, seconds: float) -> AsyncGenerator[None]:
        """Sets consumer_timeout for channels that are opened inside. The broker checks every half second."""
        await self._set(consumer_timeout=round(seconds * 1000), channel_tick_interval=500)
        try:
            yield
        finally:
            await self._set(consumer_timeout=1_800_000, channel_tick_interval=60_000)

    async def _set(self, **values: int) -> None:
        settings = ", ".join(f"application:set_env(rabbit, {name}, {value})" for name, value in values.items())
        await self._control("eval", f"{settings}.")

    async def _control(self, *arguments: str) -> str:
        """Runs `rabbitmqctl`, which takes about a second, in a thread."""
        return await asyncio.to_thread(self._node.control, *arguments)

    def create_vhost(self) -> str:
        vhost = f"test-{uuid.uuid4().hex[:12]}"
        self._call("PUT", f"/vhosts/{vhost}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self._call("PUT", f"/permissions/{vhost}/guest", everything)
        self._created.add(vhost)
        return vhost

    def create_user(self, name: str, password: str, vhost: str, *, may: str = ".*") -> None:
        """Creates a user with permissions on the resources that the regular expression matches."""
        self._call("PUT", f"/users/{name}", {"password": password, "tags": ""})
        self._call("PUT", f"/permissions/{vhost}/{name}", {"configure": may, "write": may, "read": may})

    def delete_user(self, name: str) -> None:
        self._call("DELETE", f"/users/{name}")

    def delete_vhost(self, vhost: str) -> None:
        """Deletes the virtual host, and with it its connections. A virtual host from before the broker's last start is
        kept: if a queue is deleted before it has found its leader again, RabbitMQ 3.10 loses its supervisor of
        dead-lettering, and with it every quorum queue.
        """
        if vhost in self._created:
            self._created.remove(vhost)
            self._call("DELETE", f"/vhosts/{vhost}")

    def queues(self, vhost: str) -> list[QueueCounters]:
        """Returns the queues' message counts, at most a tenth of a second old. The statistics lag by a second or
        more.
        """
        return [
            QueueCounters(each["name"], each.get("messages_ready"), each.get("messages_unacknowledged"))
            for each in self._call("GET", f"/queues/{vhost}?disable_stats=true&enable_queue_totals=true")
        ]

    def depth(self, vhost: str, queue: str) -> int | None:
        """Returns the number of messages that wait in the queue, or None if it does not exist."""
        return next((each.messages_ready for each in self.queues(vhost) if each.name == queue), None)

    def lose(self, vhost: str, queue: str, *, keep: bool) -> None:
        """Purges a queue, or deletes it with `keep` unset."""
        self._call("DELETE", f"/queues/{vhost}/{quote(queue, safe='')}{'/contents' if keep else ''}")

    def consumers(self, vhost: str) -> list[str]:
        """Returns the queue of each consumer. A new consumer appears after about a second."""
        return [each["queue"]["name"] for each in self._call("GET", f"/consumers/{vhost}")]

    def connections(self, vhost: str) -> list[str]:
        return [each["name"] for each in self._call("GET", f"/vhosts/{vhost}/connections")]

    def running_nodes(self) -> set[str]:
        """Returns the running nodes of this node's cluster."""
        return {each["name"] for each in self._call("GET", "/nodes?columns=name,running") if each["running"]}

    def nodes_of_connections(self, vhost: str) -> list[str]:
        return [each["node"] for each in self._call("GET", f"/vhosts/{vhost}/connections")]

    def leaders(self, vhost: str) -> set[str]:
        """Returns the nodes that lead the virtual host's quorum queues."""
        return {each["leader"] for each in self._call("GET", f"/queues/{vhost}?columns=name,leader")}

    def close_connections(self, vhost: str) -> int:
        """Closes connections, as on the management page, and returns their number."""
        names = self.connections(vhost)
        for name in names:
            self._call("DELETE", f"/connections/{quote(name, safe='')}")
        return len(names)

    def _answers(self) -> bool:
        try:
            self._call("GET", "/health/checks/virtual-hosts")
        except (OSError, http.client.HTTPException, RuntimeError):
            return False
        return accepts_connections(self.amqp_port)

    def _call(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.management_port, timeout=60)
        try:
            connection.request(method, f"/api{path}", json.dumps(body) if body else None, HEADERS)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"RabbitMQ: {method} {path}: {answer.status} {content.decode(errors='replace')}")
        return json.loads(content) if content else None


class HostNode(HostServer):
    """RabbitMQ on this machine. It starts epmd itself, because the one that RabbitMQ starts would stay behind as a
    daemon.
    """

    def __init__(self, launcher: str, directory: Path, env: dict[str, str], epmd: HostServer) -> None:
        super().__init__([launcher], directory, env)
        self._epmd = epmd
        self._rabbitmqctl = str(Path(launcher).with_name("rabbitmqctl"))

    def control(self, *arguments: str) -> str:
        return _said([self._rabbitmqctl, "--quiet", *arguments], self._env)

    def start(self) -> None:
        if not self._epmd.is_running():
            self._epmd.start()
        super().start()

    async def close(self) -> None:
        await super().close()
        await self._epmd.close()


class ContainerNode(ContainerServer):
    def control(self, *arguments: str) -> str:
        return self._docker("exec", self._name, "rabbitmqctl", "--quiet", *arguments)


def find_rabbitmq() -> str | None:
    """Finds RabbitMQ's own launcher, in preference to Debian's wrapper, which runs the node as another user."""
    launcher = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(launcher) if launcher.exists() else shutil.which("rabbitmq-server")


def rabbitmq_on_this_machine(launcher: str, directory: Path) -> RabbitMQ:
    return _nodes_on_this_machine(launcher, directory, 1)[0]


def rabbitmq_cluster_on_this_machine(launcher: str, directory: Path, size: int = 3) -> list[RabbitMQ]:
    """Returns nodes that form a cluster when they are started concurrently."""
    return _nodes_on_this_machine(launcher, directory, size)


def _nodes_on_this_machine(launcher: str, directory: Path, count: int) -> list[RabbitMQ]:
    epmd_port, *ports = free_ports(1 + 3 * count)
    epmd = HostServer([_find_epmd(), "-port", str(epmd_port), "-address", "127.0.0.1"], directory)
    names = [f"ignite-test-{port}@localhost" for port in ports[::3]]
    nodes: list[RabbitMQ] = []
    for name, amqp, management, distribution in zip(names, ports[::3], ports[1::3], ports[2::3], strict=True):
        home = directory / name
        home.mkdir()
        _write_configuration(home, _listeners(amqp, management) + (_peers(names) if count > 1 else ""))
        _write_cookie(home)
        env = _only_ours(home) | {
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_DIST_PORT": str(distribution),
            "ERL_EPMD_PORT": str(epmd_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG_ARGUMENTS,
        }
        nodes.append(RabbitMQ(HostNode(launcher, home, env, epmd), amqp, management, name))
    return nodes


def _listeners(amqp: int, management: int) -> str:
    return f"listeners.tcp.1 = 127.0.0.1:{amqp}\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management}\n"


def _peers(names: Sequence[str]) -> str:
    nodes = "".join(f"cluster_formation.classic_config.nodes.{at} = {name}\n" for at, name in enumerate(names, 1))
    return f"cluster_formation.peer_discovery_backend = classic_config\n{nodes}"


def _write_cookie(home: Path) -> None:
    """Writes the Erlang cookie, which is the same for all nodes of a cluster."""
    cookie = home / ".erlang.cookie"
    cookie.write_text("ignite-test")
    cookie.chmod(0o400)


def rabbitmq_in_docker(directory: Path) -> RabbitMQ:
    amqp, management = free_ports(2)
    _write_configuration(directory)
    options = [
        f"--volume={directory}/rabbitmq.conf:/etc/rabbitmq/conf.d/90-test.conf:ro",
        f"--volume={directory}/advanced.config:/etc/rabbitmq/advanced.config:ro",
    ]
    container = ContainerNode(IMAGE, {amqp: 5672, management: 15672}, options=options)
    return RabbitMQ(container, amqp, management)


def _write_configuration(directory: Path, listeners: str = "") -> None:
    (directory / "rabbitmq.conf").write_text(CONFIGURATION + listeners)
    (directory / "advanced.config").write_text(ADVANCED_CONFIGURATION)
    (directory / "enabled_plugins").write_text("[rabbitmq_management].\n")
    (directory / "env.conf").write_text("")


def _only_ours(directory: Path) -> dict[str, str]:
    """Returns an environment in which the node uses no files, cookie or settings of the machine's own RabbitMQ."""
    return {
        "HOME": str(directory),
        "RABBITMQ_CONF_ENV_FILE": f"{directory}/env.conf",
        "RABBITMQ_CONFIG_FILE": f"{directory}/rabbitmq.conf",
        "RABBITMQ_ADVANCED_CONFIG_FILE": f"{directory}/advanced.config",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{directory}/enabled_plugins",
        "RABBITMQ_GENERATED_CONFIG_DIR": f"{directory}/generated",
        "RABBITMQ_SCHEMA_DIR": f"{directory}/schema",
        "RABBITMQ_MNESIA_BASE": f"{directory}/data",
        "RABBITMQ_LOG_BASE": f"{directory}/log",
        "RABBITMQ_PID_FILE": f"{directory}/pid",
        "RABBITMQ_LOGS": "-",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }


def _said(command: Sequence[str], env: dict[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def _find_epmd() -> str:
    """Finds epmd, which is not always on PATH, by asking `erl` for its directory."""
    if found := shutil.which("epmd"):
        return found
    ask = ["erl", "-noshell", "-eval", "io:put_chars(code:root_dir()),halt()."]
    root = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    return str(next(Path(root).glob("erts-*/bin/epmd")))
