"""Encodes an engine's chunks as frames for the client, once, and writes them to the log in batches.

Engines differ in how they begin and end a choice. Clients get one form of each choice: a role chunk, deltas, and one
finish chunk with an empty delta.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import orjson
import structlog

from shared.errors import AnswerTooLarge, BackendUnavailable, StorageQuotaExceeded
from shared.frames import DONE, FRAME_END
from shared.ports import Claim, JobLog, LogShorter, Progress
from shared.quota import LOG_ROOM, room_for
from worker.openai.translate import finish_reason, openai_logprobs

log = structlog.get_logger(__name__)

WRITE_LIMIT = 1024 * 1024
"""Bytes of frames that may wait to be appended before reading from the engine pauses."""

TAIL_KEPT = 64 * 1024
"""The least bytes of the log's end that the writer keeps, to write them again if the store loses them: a Redis that
dies may not have saved or replicated its last writes.
"""

NO_LIMIT = 2**63

RETRY_DELAY = 0.2
"""Seconds between tries while the store is unavailable."""


class FrameEncoder:
    """Encodes one job's chunks. They share id, created and model, which are encoded once.

    `begun`: the choices whose role chunk an earlier attempt has sent. `ended`: those that it finished.
    """

    def __init__(
        self,
        head: Mapping[str, Any],
        *,
        include_usage: bool,
        begun: set[int] | None = None,
        ended: set[int] | None = None,
    ) -> None:
        self._head = {**head, "object": "chat.completion.chunk"}
        self._prefix = _prefix(self._head)
        self._include_usage = include_usage
        self._suffix = (b',"usage":null}' if include_usage else b"}") + FRAME_END
        self._begun = set(begun or ())
        self._ended = set(ended or ())
        self._sent: dict[str, Any] = {}
        self._unsent: dict[str, Any] = {}
        self._text_suffix = b'},"logprobs":null,"finish_reason":null}]' + self._suffix

    def has_begun(self, index: int) -> bool:
        """Whether the choice's role has been sent."""
        return index in self._begun

    def encode_text(self, index: int, text: str) -> bytes:
        """Returns the frames of a piece of plain text: the bytes that `encode` makes, without intermediate dicts."""
        frame = b'%b[{"index":%d,"delta":{"content":%b%b' % (self._prefix, index, orjson.dumps(text), self._text_suffix)
        return frame if index in self._begun else self._role(index) + frame

    def encode(self, chunk: Mapping[str, Any]) -> bytes:
        """Returns the chunk's frames; empty if it holds nothing for the client."""
        if "system_fingerprint" in chunk and "system_fingerprint" not in self._head:
            self._head["system_fingerprint"] = chunk["system_fingerprint"]
            self._prefix = _prefix(self._head)
        frames = [self._frame(choice) for part in chunk["choices"] for choice in self._choice_frames(part)]
        self._unsent |= {name: chunk[name] for name in chunk.keys() - OF_CHUNK if self._sent.get(name) != chunk[name]}
        if frames and self._unsent:
            frames[-1] = with_fields(frames[-1], self._unsent)
            self._sent, self._unsent = self._sent | self._unsent, {}
        return b"".join(frames)

    def end(self, usage: Mapping[str, Any] | None) -> bytes:
        """Returns the last frames of a completed stream."""
        if not self._include_usage:
            return DONE
        last = self._prefix + b'[],"usage":' + orjson.dumps(usage) + b"}" + FRAME_END
        return (with_fields(last, self._unsent) if self._unsent else last) + DONE

    def _role(self, index: int) -> bytes:
        self._begun.add(index)
        return self._frame(role(index))

    def _frame(self, choice: Mapping[str, Any]) -> bytes:
        return self._prefix + orjson.dumps([choice]) + self._suffix

    def _choice_frames(self, part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        index, logprobs = part["index"], openai_logprobs(part.get("logprobs"))
        delta = {key: value for key, value in part["delta"].items() if key != "role" and value not in (None, "", [])}
        beside = {name: part[name] for name in part.keys() - OF_CHOICE if part[name] is not None}
        if not (delta or logprobs or part.get("finish_reason") or beside):
            return  # Engines send a role before any output, and frames in the log count as progress.
        if index not in self._begun:
            self._begun.add(index)
            yield role(index)
        finish = part.get("finish_reason") if index not in self._ended else None
        if delta or logprobs or (beside and not finish):
            yield choice_part(index, delta, logprobs=logprobs) | ({} if finish else beside)
        if finish:
            self._ended.add(index)
            yield choice_part(index, {}, finish=finish_reason(finish)) | beside


OF_CHOICE = frozenset({"index", "delta", "logprobs", "finish_reason"})
OF_CHUNK = frozenset({"id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint"})


def _prefix(head: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(head)[:-1] + b',"choices":'


def with_fields(frame: bytes, fields: Mapping[str, Any]) -> bytes:
    """Adds fields to the frame's chunk."""
    return frame.removesuffix(b"}" + FRAME_END) + b"," + orjson.dumps(fields)[1:] + FRAME_END


def role(index: int) -> dict[str, Any]:
    return choice_part(index, {"role": "assistant", "content": ""})


def choice_part(
    index: int, delta: Mapping[str, Any], logprobs: Any = None, finish: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


class FrameWriter:
    """Writes one attempt's frames to the log, one append at a time; frames that arrive meanwhile go with the next.

    `claim`: the attempt's; the log is as long as it says. Calls `failed` once, from the loop, when the log refuses an
    append (the attempt is fenced, or the tenant's storage is full) or would have more than `limit` bytes; it takes no
    more frames then. `room`: bytes that the log may have before more must be reserved (shared/quota.py). While the
    store is unavailable the writer retries, and it writes again what the store has lost. The engine's progress goes
    with the frames that it belongs to.
    """

    def __init__(
        self,
        log: JobLog,
        claim: Claim,
        *,
        failed: Callable[[BaseException], None],
        limit: int = NO_LIMIT,
        room: int = LOG_ROOM,
    ) -> None:
        self._log = log
        self._job_id = claim.job_id
        self._attempt = claim.attempt
        self._offset = offset = claim.offset
        self._failed = failed
        self._limit = limit
        self._room = max(room, offset)
        self._left = max(0, limit - offset)
        self._waiting: list[bytes] = []
        self._size = 0
        self._sending = b""
        self._written = bytearray()
        self._progress = bytearray()
        self._progress_written = 0
        self._progress_sending = 0
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def full(self) -> bool:
        return self._size > WRITE_LIMIT

    def write(self, frames: bytes, progress: bytes = b"") -> None:
        if self._left < len(frames):
            self._overflow()
            return
        self._left -= len(frames)
        self._progress += progress
        self._waiting.append(frames)
        self._size += len(frames)
        if self._idle.is_set():
            self._next()

    async def drain(self) -> None:
        """Waits until all frames are in the log, or the log has refused them."""
        await self._idle.wait()

    async def close(self) -> tuple[int, bytes]:
        """Stops appending. Returns the log's length and the frames that are not in it yet, for the job's ending."""
        self._closing = True
        await self._idle.wait()
        rest, self._waiting = b"".join(self._waiting), []
        return self._offset, rest

    def lost(self, size: int) -> bytes | None:
        """Returns the written bytes behind `size`, where the log ends; None where fewer of them are kept."""
        count = self._offset - size
        return bytes(self._written[-count:]) if 0 < count <= len(self._written) else None

    def _overflow(self) -> None:
        """Takes no more frames; those taken are still written."""
        if self._left >= 0:
            self._left = -1
            self._failed(too_large(self._limit))

    def _next(self) -> None:
        self._idle.clear()
        self._sending = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting, self._size = [], 0
        self._progress_sending = len(self._progress)
        if self._offset + len(self._sending) > self._room:
            self._reserve()
        else:
            self._send()

    def _reserve(self) -> None:
        """Reserves room for the bytes to append."""
        room = room_for(self._offset + len(self._sending), self._limit)
        taking = asyncio.ensure_future(self._log.reserve(self._job_id, self._attempt, room))
        taking.add_done_callback(partial(self._reserved, room))

    def _reserved(self, room: int, taking: asyncio.Future[None]) -> None:
        if taking.cancelled():
            self._requeue_sending()
        elif (error := taking.exception()) is None:
            self._room = room
            self._send()
        elif isinstance(error, BackendUnavailable) and not self._closing:
            asyncio.get_running_loop().call_later(RETRY_DELAY, self._reserve)
        elif isinstance(error, StorageQuotaExceeded) and not self._closing:
            self._fill_room(error)
        else:
            self._give_up(error)

    def _fill_room(self, error: StorageQuotaExceeded) -> None:
        """Appends the whole frames that still fit. The ending must not carry the others: there is no room for them."""
        self._sending = whole_frames(self._sending, self._room - self._offset)
        self._waiting, self._size, self._left, self._closing = [], 0, -1, True
        self._failed(error)
        if self._sending:
            self._send()
        else:
            self._idle.set()

    def _send(self) -> None:
        at, until = self._progress_written, self._progress_sending
        progress = Progress(at, bytes(self._progress[at:until])) if until > at else None
        append = self._log.append(self._job_id, self._attempt, self._offset, self._sending, progress)
        asyncio.ensure_future(append).add_done_callback(self._sent)

    def _sent(self, append: asyncio.Future[None]) -> None:
        if append.cancelled():  # The process is ending; the next attempt resumes from the log.
            self._requeue_sending()
        elif (error := append.exception()) is None:
            self._progress_written = self._progress_sending
            self._keep()
            if self._waiting and not self._closing:
                self._next()
            else:
                self._idle.set()
        elif isinstance(error, LogShorter) and (lost := self.lost(error.size)) is not None:
            self._write_again(error.size, lost)
        elif isinstance(error, BackendUnavailable) and not self._closing:
            asyncio.get_running_loop().call_later(RETRY_DELAY, self._send)
        else:
            self._give_up(error)

    def _keep(self) -> None:
        self._offset += len(self._sending)
        self._written += self._sending
        if len(self._written) > 2 * TAIL_KEPT:
            del self._written[:-TAIL_KEPT]

    def _write_again(self, size: int, lost: bytes) -> None:
        log.warning("log.shorter", lost=len(lost), next="writing the lost bytes again")
        self._offset, self._sending = size, lost + self._sending
        self._progress_written = 0
        del self._written[-len(lost) :]
        self._send()

    def _give_up(self, error: BaseException) -> None:
        self._requeue_sending()
        if not self._closing:
            self._closing = True
            self._failed(error)

    def _requeue_sending(self) -> None:
        """Queues the bytes being sent again, first: they may be in the log or not, and the log drops duplicates."""
        self._waiting.insert(0, self._sending)
        self._idle.set()


def whole_frames(frames: bytes, size: int) -> bytes:
    """Returns as many of the frames as have at most `size` bytes together."""
    end = frames.rfind(FRAME_END, 0, max(0, size))
    return frames[: end + len(FRAME_END)] if end >= 0 else b""


def too_large(limit: int) -> AnswerTooLarge:
    return AnswerTooLarge(
        f"The answer is larger than {limit:,} bytes, which is the limit for one job: ask for fewer tokens or choices.",
        param="max_completion_tokens",
    )
