"""The command line, run in this process."""

import asyncio

from click.testing import CliRunner, Result

from ignite.cli import cli


async def ignite(*arguments: str, status: int = 0) -> Result:
    """What the command printed. It runs an event loop of its own, and so gets a thread."""
    done = await asyncio.to_thread(CliRunner().invoke, cli, arguments)
    assert done.exit_code == status, done.output
    return done
