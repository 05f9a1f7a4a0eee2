"""An engine's chunks as the client's frames, and the writer that puts them into the log."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from shared.errors import BackendUnavailable, StorageQuotaExceeded, StoreUnavailable
from shared.frames import DONE, FRAME_END
from shared.ports import AttemptFenced, Claim, LogShorter, Progress
from shared.quota import store_full
from tests.support.wait_until import wait_until
from tests.worker.scripted import USAGE, chunk, delta
from worker.stream import frames
from worker.stream.fold import Fold, plain_text
from worker.stream.frames import NO_LIMIT, FrameEncoder, FrameWriter

HEAD = {"id": "chatcmpl-1", "created": 7, "model": "m", "service_tier": "default"}
ROLE = {"role": "assistant", "content": ""}


def encoded(*chunks: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    encoder = FrameEncoder(HEAD, **{"include_usage": False, **options})
    return decoded(b"".join(encoder.encode(each) for each in chunks))


def decoded(data: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(frame.removeprefix(b"data: ")) for frame in data.split(b"\n\n")[:-1]]


def said(sent: Sequence[dict[str, Any]]) -> list[Any]:
    """Returns each frame's delta, or its finish reason."""
    parts = [part for each in sent for part in each["choices"]]
    return [part["finish_reason"] or part["delta"] for part in parts]


# ── encoder ──


def test_a_frame_is_one_choice_under_the_jobs_own_head() -> None:
    role, _ = encoded(chunk(delta("hi", role="assistant")))

    choice = {"index": 0, "delta": ROLE, "logprobs": None, "finish_reason": None}
    assert role == {**HEAD, "object": "chat.completion.chunk", "choices": [choice]}


def test_log_probabilities_have_everything_that_openai_requires() -> None:
    token = {"token": "hi", "logprob": -0.5}
    _, told = encoded(chunk({**delta("hi"), "logprobs": {"content": [token]}}))
    whole = {**token, "bytes": None, "top_logprobs": []}
    assert told["choices"][0]["logprobs"] == {"content": [whole], "refusal": None}


def test_a_role_alone_is_no_frame() -> None:
    """Logged frames count as progress, and engines send the role before they have generated anything."""
    assert encoded(chunk(delta("", role="assistant"))) == []


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(
            [chunk(delta("", role="assistant")), chunk(delta("hi")), chunk(delta(finish="stop"))], id="as OpenAI does"
        ),
        pytest.param([chunk(delta("hi")), chunk(delta(finish="stop"))], id="without a role"),
        pytest.param([chunk(delta("hi", role="assistant", finish="stop"))], id="all in one chunk"),
        pytest.param([chunk(delta("hi", role="assistant")), chunk(delta("", finish="stop"))], id="role with content"),
        pytest.param(
            [chunk(delta("hi", role="assistant")), chunk(delta("", role="assistant", finish="stop"))], id="role twice"
        ),
        pytest.param(
            [chunk(delta("hi", refusal=None, tool_calls=[])), chunk(delta(tool_calls=[], finish="stop"))], id="nothings"
        ),
        pytest.param(
            [chunk(delta("hi")), chunk(delta(finish="stop")), chunk(delta("", finish="stop"))], id="finished twice"
        ),
        pytest.param([chunk(), chunk(delta("hi")), chunk(delta(finish="stop")), chunk(usage=USAGE)], id="empty chunks"),
        pytest.param([chunk(delta("hi")), chunk(delta(finish="eos_token"))], id="a finish reason of its own"),
    ],
)
def test_frames_are_equal_however_an_engine_begins_and_ends(chunks: list[dict[str, Any]]) -> None:
    assert said(encoded(*chunks)) == [ROLE, {"content": "hi"}, "stop"]


def test_choices_begin_and_end_independently() -> None:
    sent = encoded(chunk(delta("a"), delta("b", index=1)), chunk(delta(finish="stop", index=1)), chunk(delta("c")))

    assert [part["index"] for each in sent for part in each["choices"]] == [0, 0, 1, 1, 1, 0]
    assert said(sent) == [ROLE, {"content": "a"}, ROLE, {"content": "b"}, "stop", {"content": "c"}]


def test_log_probabilities_stay_with_their_token() -> None:
    logprobs = {"content": [{"token": "hi", "logprob": -0.1, "bytes": None, "top_logprobs": []}], "refusal": None}

    sent = encoded(chunk({**delta("hi"), "logprobs": logprobs}))

    assert [part["logprobs"] for each in sent for part in each["choices"]] == [None, logprobs]


def test_a_continuing_attempt_repeats_neither_beginning_nor_end() -> None:
    sent = encoded(chunk(delta("more", role="assistant", finish="stop")), begun={0}, ended={0})

    assert said(sent) == [{"content": "more"}]


def test_the_end_is_only_done_unless_usage_was_requested() -> None:
    assert FrameEncoder(HEAD, include_usage=False).end(USAGE) == DONE

    end = FrameEncoder(HEAD, include_usage=True).end(USAGE)
    (last,) = decoded(end.removesuffix(DONE))
    assert last == {**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}


def test_with_usage_every_other_frame_has_null() -> None:
    assert [each["usage"] for each in encoded(chunk(delta("hi")), include_usage=True)] == [None, None]
    assert "usage" not in encoded(chunk(delta("hi")))[0]


@pytest.mark.parametrize("begun", [set[int](), {0, 1}])
@pytest.mark.parametrize("text", ["hi", " ", 'quotes " and \\', "line\nend", "ünï→🎈"])
def test_plain_text_is_encoded_and_folded_like_everything_else(text: str, begun: set[int]) -> None:
    each = chunk(delta(text, index=1))
    options: dict[str, Any] = {"include_usage": True, "begun": begun}

    assert plain_text(each) == (1, text)
    assert FrameEncoder(HEAD, **options).encode_text(1, text) == FrameEncoder(HEAD, **options).encode(each)
    quick, slow = Fold(), Fold()
    for _ in range(2):
        quick.add_text(each, 1, text)
        slow.add(each)
    assert quick.completion == slow.completion


@pytest.mark.parametrize(
    "each",
    [
        chunk(),
        chunk(delta("")),
        chunk(delta(refusal="no")),
        chunk(delta("hi", role="assistant")),
        chunk(delta("hi", finish="stop")),
        chunk(delta("a"), delta("b", index=1)),
        chunk({**delta("hi"), "logprobs": {"content": []}}),
        chunk(delta("hi"), usage=USAGE),
    ],
)
def test_a_chunk_with_other_fields_is_not_plain_text(each: dict[str, Any]) -> None:
    assert plain_text(each) is None


# ── writer ──


class ScriptedLog:
    """A job's log whose appends the test answers."""

    def __init__(self) -> None:
        self.data = b""
        self.appends: list[tuple[int, bytes]] = []
        self.progress: list[Progress | None] = []
        self.quota = NO_LIMIT
        self._answer: asyncio.Future[None] | None = None

    @property
    def pending(self) -> bool:
        return self._answer is not None

    def append(
        self, job_id: str, attempt: int, offset: int, data: bytes, progress: Progress | None = None
    ) -> asyncio.Future[None]:
        assert self._answer is None, "one append at a time"
        self.appends.append((offset, data))
        self.progress.append(progress)
        self._answer = asyncio.get_running_loop().create_future()
        return self._answer

    async def take(self) -> None:
        offset, data = self.appends[-1]
        self.data = self.data[:offset] + data
        self._settle().set_result(None)
        await turn()

    async def refuse(self, error: Exception) -> None:
        self._settle().set_exception(error)
        await turn()

    def _settle(self) -> asyncio.Future[None]:
        assert self._answer is not None, "no append is under way"
        answer, self._answer = self._answer, None
        return answer

    async def reserve(self, job_id: str, attempt: int, size: int) -> None:
        if size > self.quota:
            raise store_full(size, self.quota)

    async def follow(self, *_: Any) -> Any: ...
    async def read(self, *_: Any) -> Any: ...


async def turn() -> None:
    """Lets the event loop run due callbacks."""
    done = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(done.set_result, None)
    await done


class Writing:
    def __init__(self, offset: int = 0, **options: int) -> None:
        self.log = ScriptedLog()
        self.log.data = b"." * offset
        self.failures: list[BaseException] = []
        log: Any = self.log
        claim = Claim("job", attempt=1, tries=0, lost=0, offset=offset)
        self.writer = FrameWriter(log, claim, failed=self.failures.append, **options)


@pytest.fixture
def writing() -> Writing:
    return Writing()


async def test_the_first_frame_is_appended_at_once_and_later_ones_together(writing: Writing) -> None:
    for data in (b"a", b"b", b"c"):
        writing.writer.write(data)
    assert writing.log.appends == [(0, b"a")]

    await writing.log.take()
    await writing.log.take()

    assert writing.log.appends == [(0, b"a"), (1, b"bc")]
    assert not writing.log.pending


async def test_offsets_continue_at_the_logs_end() -> None:
    writing = Writing(offset=5)

    writing.writer.write(b"abc")
    await writing.log.take()
    writing.writer.write(b"d")

    assert [offset for offset, _ in writing.log.appends] == [5, 8]


async def test_drain_returns_when_everything_is_in_the_log(writing: Writing) -> None:
    writing.writer.write(b"a")
    writing.writer.write(b"b")
    draining = asyncio.create_task(writing.writer.drain())

    await writing.log.take()
    assert not draining.done()
    await writing.log.take()
    await draining

    assert writing.log.data == b"ab"


async def test_the_writer_is_full_while_too_many_bytes_wait(writing: Writing) -> None:
    writing.writer.write(b"a")
    writing.writer.write(b"x" * (frames.WRITE_LIMIT + 1))
    assert writing.writer.full

    await writing.log.take()

    assert not writing.writer.full


async def test_close_waits_for_the_running_append_and_returns_the_rest(writing: Writing) -> None:
    writing.writer.write(b"a")
    writing.writer.write(b"b")
    closing = asyncio.create_task(writing.writer.close())
    await turn()

    await writing.log.take()

    assert await closing == (1, b"b")
    assert writing.log.appends == [(0, b"a")], "the rest goes with the ending"


async def test_a_refusal_is_reported_once(writing: Writing) -> None:
    fenced = AttemptFenced(None)
    writing.writer.write(b"a")
    writing.writer.write(b"b")

    await writing.log.refuse(fenced)

    assert writing.failures == [fenced]
    assert await writing.writer.close() == (0, b"ab")


async def test_the_writer_waits_for_an_unavailable_store(writing: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "RETRY_DELAY", 0.0)
    writing.writer.write(b"a")
    writing.writer.write(b"b")

    await writing.log.refuse(BackendUnavailable("away"))
    await wait_until(lambda: writing.log.pending, "another try")
    await writing.log.take()
    await writing.log.take()

    assert writing.log.appends == [(0, b"a"), (0, b"a"), (1, b"b")]
    assert (writing.log.data, writing.failures) == (b"ab", [])


async def test_closing_does_not_wait_for_an_unavailable_store(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "RETRY_DELAY", 0.0)
    writing.writer.write(b"a")
    await writing.log.refuse(BackendUnavailable("away"))
    closing = asyncio.create_task(writing.writer.close())

    await wait_until(lambda: writing.log.pending, "another try")
    await writing.log.refuse(BackendUnavailable("away"))

    assert await closing == (0, b"a")
    assert writing.failures == []


async def test_bytes_that_the_store_lost_are_written_again(writing: Writing) -> None:
    for data in (b"abc", b"def"):
        writing.writer.write(data)
        await writing.log.take()
    writing.log.data = b"ab"
    writing.writer.write(b"ghi")

    await writing.log.refuse(LogShorter(2))
    await writing.log.take()
    writing.writer.write(b"j")
    await writing.log.take()

    assert writing.log.appends[-2:] == [(2, b"cdefghi"), (9, b"j")]
    assert (writing.log.data, writing.failures) == (b"abcdefghij", [])


async def test_bytes_that_are_lost_again_are_written_again(writing: Writing) -> None:
    writing.writer.write(b"abc")
    await writing.log.take()
    writing.writer.write(b"def")
    await writing.log.refuse(LogShorter(2))
    await writing.log.refuse(LogShorter(1))

    closing = asyncio.create_task(writing.writer.close())
    await turn()
    await writing.log.take()

    assert await closing == (6, b"")
    assert writing.log.appends[1:] == [(3, b"def"), (2, b"cdef"), (1, b"bcdef")]


async def test_bytes_that_are_no_longer_buffered_cannot_be_written_again(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "TAIL_KEPT", 2)
    for data in (b"abc", b"def"):
        writing.writer.write(data)
        await writing.log.take()
    assert writing.writer.lost(4) == b"ef"
    writing.writer.write(b"g")
    shorter = LogShorter(3)

    await writing.log.refuse(shorter)

    assert writing.failures == [shorter]


@pytest.mark.parametrize("offset, written", [(0, 3), (10, 2), (26, 0), (30, 0)])
async def test_above_the_limit_only_whole_frames_that_fit_are_written(offset: int, written: int) -> None:
    writing = Writing(offset, room=32)
    writing.log.quota = 32
    each = b"0123456" + FRAME_END
    writing.writer.write(each * 5)
    await wait_until(lambda: writing.failures, "the writer to fail")
    writing.writer.write(each)
    if written:
        await wait_until(lambda: writing.log.pending, "the append")
        await writing.log.take()

    assert await writing.writer.close() == (offset + written * len(each), b"")
    assert writing.log.data == b"." * offset + each * written
    [failure] = writing.failures
    assert isinstance(failure, StorageQuotaExceeded)
    assert await writing.writer.close() == (offset + written * len(each), b"")


async def test_frames_that_fit_are_part_of_the_ending() -> None:
    writing = Writing(room=10)
    writing.log.quota = 10
    writing.writer.write(b"0123456" + FRAME_END + b"more" + FRAME_END)
    await wait_until(lambda: writing.log.pending, "the append")
    await writing.log.refuse(StoreUnavailable("away"))
    assert await writing.writer.close() == (0, b"0123456" + FRAME_END)


async def test_progress_goes_with_the_frames_that_it_was_written_with(writing: Writing) -> None:
    writing.writer.write(b"a", b"1")
    writing.writer.write(b"b")
    writing.writer.write(b"c", b"23")
    await writing.log.take()
    writing.writer.write(b"d", b"4")
    await writing.log.take()
    await writing.log.take()
    writing.writer.write(b"e")

    appends = [data for _, data in writing.log.appends]
    assert appends == [b"a", b"bc", b"d", b"e"]
    assert writing.log.progress == [Progress(0, b"1"), Progress(1, b"23"), Progress(3, b"4"), None]


async def test_progress_is_written_again_from_its_begin_when_the_store_has_lost_frames(writing: Writing) -> None:
    for data in (b"ab", b"cd"):
        writing.writer.write(data, data.upper())
        await writing.log.take()
    writing.writer.write(b"ef", b"EF")
    writing.writer.write(b"gh", b"GH")

    await writing.log.refuse(LogShorter(2))

    assert writing.log.appends[-1] == (2, b"cdef")
    assert writing.log.progress[-1] == Progress(0, b"ABCDEF"), "and not what belongs to later frames"
