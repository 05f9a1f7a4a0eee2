"""What a large upload, and reading it back, cost the API process: seconds, and memory at its peak.

.venv/bin/python -m benchmarks.uploads --megabytes 512        onto the disk, and to an S3 server on this machine
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import re
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from tests.support.run_process import RunningProcess, run_ignite
from tests.support.s3 import BUCKET, CREDENTIALS, S3

MEGABYTE = 1024 * 1024
READY = r"(http://\S+)/v1"


def piece(number: int) -> bytes:
    """Yields different blocks that do not compress."""
    return (hashlib.sha256(str(number).encode()).hexdigest().encode() * (MEGABYTE // 64))[:-1] + b"\n"


async def form(megabytes: int) -> AsyncGenerator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    for number in range(megabytes):
        yield piece(number)
    yield b"\r\n--b--\r\n"


def memory(process: RunningProcess, field: str) -> float:
    """Returns megabytes: VmRSS now, VmHWM at the peak."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


@contextmanager
def measured(process: RunningProcess, what: str) -> Generator[None]:
    """Prints the time and memory of a step."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # The peak counts from now on.
    before, began = memory(process, "VmRSS"), time.monotonic()
    yield
    seconds, peak = time.monotonic() - began, memory(process, "VmHWM")
    print(f"{what}: {seconds:.1f} s, from {before:.0f} MB to {peak:.0f} MB at the peak")


async def uploaded(session: aiohttp.ClientSession, url: str, megabytes: int) -> str:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    async with session.post(f"{url}/v1/files", data=form(megabytes), headers=headers) as answer:
        file = await answer.json()
    assert file["bytes"] == megabytes * MEGABYTE, file
    return file["id"]


async def read_back(session: aiohttp.ClientSession, url: str, file_id: str, megabytes: int) -> None:
    seen, expected = hashlib.sha256(), hashlib.sha256()
    async with session.get(f"{url}/v1/files/{file_id}/content") as answer:
        async for chunk in answer.content.iter_any():
            seen.update(chunk)
    for number in range(megabytes):
        expected.update(piece(number))
    assert seen.digest() == expected.digest()


async def measure(name: str, megabytes: int, *options: str) -> None:
    with tempfile.TemporaryDirectory(prefix="ignite-uploads-") as home:
        command = ("up", "--engine", "simulated", "--data-dir", home, "--port", "0", "--grpc-port", "0", *options)
        async with run_ignite(*command, env=CREDENTIALS) as process, aiohttp.ClientSession() as session:
            url = (await process.wait_for(READY))[1]
            await uploaded(session, url, 1)  # What is loaded once is no cost of a size.
            with measured(process, f"{name} upload {megabytes} MB"):
                file_id = await uploaded(session, url, megabytes)
            with measured(process, f"{name} read {megabytes} MB"):
                await read_back(session, url, file_id, megabytes)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--only", default="disk,s3")
    options = parser.parse_args()
    if "disk" in options.only:
        await measure("disk", options.megabytes)
    if "s3" in options.only:
        with tempfile.TemporaryDirectory(prefix="ignite-s3-") as home:
            server = S3(Path(home))
            try:
                await server.start()
                where = ("--files-url", f"s3://{BUCKET}/uploads", "--files-endpoint", server.url)
                await measure("S3", options.megabytes, *where)
            finally:
                await server.close()


if __name__ == "__main__":
    asyncio.run(main())
