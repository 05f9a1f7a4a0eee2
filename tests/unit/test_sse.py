"""Keep-alives, and frames with their numbers."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.http.sse import Numbered, keepalive
from shared.frames import DONE, count_frames, frame
from shared.job import JobStatus

LOG = b"".join(frame({"n": number}) for number in range(5)) + DONE
FRAMES = count_frames(LOG)


def expected(after: int) -> bytes:
    frames = LOG.split(b"\n\n")[:-1]
    return b"".join(b"id: %d\n%s\n\n" % (number, text) for number, text in enumerate(frames) if number > after)


@given(cuts=st.lists(st.integers(0, len(LOG)), max_size=10), after=st.integers(-1, FRAMES + 1))
def test_numbers_do_not_depend_on_how_the_bytes_come(cuts: list[int], after: int) -> None:
    numbered = Numbered(after)
    pieces = [LOG[start:end] for start, end in pairwise([0, *sorted(cuts), len(LOG)])]
    assert b"".join(map(numbered.feed, pieces)) == expected(after)


def test_a_frame_leaves_when_it_is_whole() -> None:
    numbered = Numbered()
    assert numbered.feed(b"data: 1\n") == b""
    assert numbered.feed(b"\ndata: 2") == b"id: 0\ndata: 1\n\n"


@pytest.mark.parametrize(
    ("status", "alive", "position", "eta", "workers", "text"),
    [
        (JobStatus.QUEUED, False, None, None, None, ": queued"),
        (JobStatus.QUEUED, False, 0, None, 1, ": queued position=1"),
        (JobStatus.QUEUED, False, 0, None, 0, ": queued position=1 workers=0"),
        (JobStatus.QUEUED, False, 6, 11.6, 3, ": queued position=7 eta=12s"),
        (JobStatus.IN_PROGRESS, True, None, None, None, ": running"),
        (JobStatus.IN_PROGRESS, False, None, None, None, ": queued"),
    ],
)
def test_a_comment_tells_the_truth(
    status: JobStatus, alive: bool, position: int | None, eta: float | None, workers: int | None, text: str
) -> None:
    assert keepalive(status, alive=alive, position=position, eta=eta, workers=workers) == text
