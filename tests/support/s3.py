"""Runs moto's S3 server in a process of its own."""

import sys
import urllib.request
from pathlib import Path

from tests.support.server import HostServer, accepts_connections, free_ports
from tests.support.wait_until import wait_until

BUCKET = "ignite-test"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
SERVE = "from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"


class S3:
    """A server with one bucket."""

    def __init__(self, directory: Path) -> None:
        (self._port,) = free_ports(1)
        self._server = HostServer([sys.executable, "-c", SERVE.format(port=self._port)], directory)
        self.url = f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        self._server.start()
        await wait_until(lambda: accepts_connections(self._port), "the S3 server to listen", within=60)
        make_bucket(self.url)

    def pause(self) -> None:
        """Pauses the server: it accepts connections and does not answer."""
        self._server.pause()

    def resume(self) -> None:
        self._server.resume()

    async def close(self) -> None:
        await self._server.close()


def make_bucket(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT")):
        pass
