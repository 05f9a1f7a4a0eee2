"""Runs the command line in this process."""

import asyncio

from click.testing import CliRunner, Result

from ignite.cli import cli


async def ignite(*arguments: str, status: int = 0) -> Result:
    """Returns the output of the command. It runs in a thread, because it has an event loop of its own."""
    done = await asyncio.to_thread(CliRunner().invoke, cli, arguments)
    assert done.exit_code == status, done.output
    return done
