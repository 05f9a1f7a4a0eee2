"""The writer thread: what shares a transaction, what fails alone, and that nobody waits for ever."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from shared.backends.embedded.database import transactions
from shared.backends.embedded.database.connection import Database
from shared.backends.embedded.database.transactions import Connection
from shared.errors import BackendUnavailable
from tests.support.wait_until import wait_until

PATIENCE = 5.0


class Recorder:
    """Every statement the connection ran."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.lost = 0

    def prepare(self, db: Connection) -> None:
        db.execute("CREATE TABLE words (word TEXT NOT NULL UNIQUE)")
        db.set_trace_callback(self.statements.append)

    def lose(self) -> None:
        self.lost += 1

    def commits(self) -> int:
        return self.statements.count("COMMIT")


@asynccontextmanager
async def opened(path: Path | None, recorder: Recorder | None = None) -> AsyncGenerator[Database]:
    recorder = recorder or Recorder()
    database = Database(path, timeout=PATIENCE, on_lost=recorder.lose)
    await database.open(recorder.prepare)
    try:
        yield database
    finally:
        await database.close()


def write(db: Connection, word: str) -> str:
    db.execute("INSERT INTO words VALUES (?)", (word,))
    return word


def words(db: Connection) -> list[str]:
    return [word for (word,) in db.execute("SELECT word FROM words ORDER BY word")]


def refuse(_: Connection) -> None:
    raise LookupError("refused")


def spoil(db: Connection) -> None:
    write(db, "spoilt")
    raise LookupError("too late")


async def test_the_steps_of_one_turn_share_a_transaction(tmp_path: Path) -> None:
    recorder = Recorder()
    async with opened(tmp_path / "db", recorder) as database:
        answers = await asyncio.gather(*(database.run(lambda db, w=word: write(db, w)) for word in "abc"))
        assert answers == ["a", "b", "c"]
        assert recorder.commits() == 1


async def test_what_gathers_while_a_transaction_runs_is_the_next_one(tmp_path: Path) -> None:
    recorder, gate, entered = Recorder(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(_: Connection) -> None:
        loop.call_soon_threadsafe(entered.set)
        gate.wait(PATIENCE)

    async with opened(tmp_path / "db", recorder) as database:
        first = database.run(hold)
        await entered.wait()
        rest = [database.run(lambda db, w=word: write(db, w)) for word in "abcdef"]
        gate.set()
        await asyncio.gather(first, *rest)
        assert recorder.commits() == 2


async def test_a_refusal_fails_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        steps = [
            database.run(lambda db: write(db, "before")),
            database.run(refuse),
            database.run(lambda db: write(db, "after")),
        ]
        await asyncio.wait(steps)
        assert isinstance(steps[1].exception(), LookupError)
        assert await database.run(words) == ["after", "before"]


async def test_a_step_that_fails_halfway_leaves_nothing_and_fails_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        seen: list[str] = []
        steps = [
            database.run(lambda db: write(db, "before"), after=seen.append),
            database.run(spoil),
            database.run(lambda db: write(db, "before")),
            database.run(lambda db: write(db, "after"), after=seen.append),
        ]
        await asyncio.wait(steps)
        assert isinstance(steps[1].exception(), LookupError)
        assert steps[2].exception() is not None
        assert await database.run(words) == ["after", "before"]
        assert seen == ["before", "after"]


async def test_only_a_durable_step_waits_for_the_disk(tmp_path: Path) -> None:
    recorder = Recorder()
    async with opened(tmp_path / "db", recorder) as database:
        for word, durable in (("a", False), ("b", True), ("c", True), ("d", False)):
            await database.run(lambda db, w=word: write(db, w), durable=durable)
    switches = [statement for statement in recorder.statements if "synchronous" in statement]
    assert switches == [f"PRAGMA synchronous={mode}" for mode in ("NORMAL", "FULL", "NORMAL")]


async def test_the_aftermath_comes_after_the_commit_and_gives_the_answer(tmp_path: Path) -> None:
    recorder = Recorder()
    async with opened(tmp_path / "db", recorder) as database:
        answer = await database.run(lambda db: write(db, "a"), after=lambda word: (word, recorder.commits()))
        assert answer == ("a", 1)


async def test_the_aftermath_comes_even_if_nobody_waits(tmp_path: Path) -> None:
    seen: list[str] = []
    async with opened(tmp_path / "db") as database:
        database.run(lambda db: write(db, "a"), after=seen.append).cancel()
        assert await database.run(words) == ["a"]
        assert seen == ["a"]


async def test_a_faulty_aftermath_fails_alone(tmp_path: Path) -> None:
    def fail(_: str) -> None:
        raise LookupError

    async with opened(tmp_path / "db") as database:
        faulty = database.run(lambda db: write(db, "a"), after=fail)
        assert await database.run(lambda db: write(db, "b")) == "b"
        assert isinstance(faulty.exception(), LookupError)


async def test_a_full_disk_is_unavailable_and_then_it_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        (pages,) = await database.run(lambda db: db.execute("PRAGMA page_count").fetchone())
        await database.run(lambda db: db.execute(f"PRAGMA max_page_count={pages}").fetchall())
        with pytest.raises(BackendUnavailable, match="full"):
            await database.run(lambda db: write(db, "x" * 100_000))
        await database.run(lambda db: db.execute(f"PRAGMA max_page_count={pages + 100}").fetchall())
        assert await database.run(lambda db: write(db, "x" * 100_000))


async def test_a_full_disk_fails_the_writes_of_a_turn_and_not_its_reads(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as database:
        await database.run(lambda db: write(db, "kept"))
        (pages,) = await database.run(lambda db: db.execute("PRAGMA page_count").fetchone())
        await database.run(lambda db: db.execute(f"PRAGMA max_page_count={pages}").fetchall())
        read, wrote, again = (
            database.run(words),
            database.run(lambda db: write(db, "x" * 100_000)),
            database.run(words),
        )
        assert (await read, await again) == (["kept"], ["kept"])
        with pytest.raises(BackendUnavailable, match="full") as refused:
            await wrote
        assert str(tmp_path) not in refused.value.message
        assert refused.value.retry_after


async def test_a_database_that_another_process_holds_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "PATIENT", 50)
    async with opened(tmp_path / "db") as database:
        await database.run(lambda db: write(db, "kept"))
        with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(3):
                wrote, read = database.run(lambda db: write(db, "new")), database.run(words)
                assert await read == ["kept"]
                with pytest.raises(BackendUnavailable):
                    await wrote
            assert await database.run(words) == ["kept"]
            other.execute("ROLLBACK")
        assert await database.run(lambda db: write(db, "new")) == "new"


async def test_a_disk_that_hangs_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    seen: list[object] = []
    async with opened(tmp_path / "db") as database:
        monkeypatch.setattr(database, "_timeout", 0.05)
        stuck = database.run(lambda _: gate.wait(PATIENCE), after=seen.append)
        behind = database.run(lambda db: write(db, "behind"))
        for step in (stuck, behind):
            with pytest.raises(BackendUnavailable, match="not answered"):
                await step
        monkeypatch.undo()
        gate.set()
        assert await database.run(words) == ["behind"]
        assert seen == [True], "what was given up for lost has taken place after all"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_ends_fails_everyone_and_its_owner_hears_of_it(tmp_path: Path) -> None:
    def leave(_: Connection) -> None:
        raise SystemExit

    recorder = Recorder()
    async with opened(tmp_path / "db", recorder) as database:
        steps = [database.run(leave), database.run(words)]
        for step in steps:
            with pytest.raises(BackendUnavailable):
                await step
        assert recorder.lost == 1
        with pytest.raises(BackendUnavailable):
            await database.run(words)
    await wait_until(lambda: all(thread.name != "sqlite" for thread in threading.enumerate()))


async def test_closing_commits_what_is_under_way_and_refuses_the_rest(tmp_path: Path) -> None:
    recorder = Recorder()
    async with opened(tmp_path / "db", recorder) as database:
        last = database.run(lambda db: write(db, "last"))
    assert last.result() == "last"
    assert recorder.lost == 0
    with pytest.raises(BackendUnavailable):
        await database.run(words)


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"certainly not a database " * 100)
    with pytest.raises(BackendUnavailable, match="not a database"):
        async with opened(tmp_path / "db"):
            pass
