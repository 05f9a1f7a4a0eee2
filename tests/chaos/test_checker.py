"""Every invariant holds without faults, and its violation is reported."""

import re
from collections.abc import Callable

import pytest

from tests.chaos.aftermath import Count, JobState
from tests.chaos.checker import INVARIANTS, Evidence, check, jobs_complete_unless_given_up
from tests.chaos.hand_made import (
    API,
    PLAIN,
    SIGNED,
    Scene,
    cut_and_resumed,
    ended,
    frames_of,
    head,
    job_answer,
    numbered,
    pieces,
    result_of,
    strike,
    words,
)
from tests.chaos.ledger import Answer, End, SignedPrompt, Use
from tests.chaos.plan import Kind
from tests.chaos.takeovers import percentile, takeovers
from tests.support.chat import DONE, compact, stream_of

ERROR = f"data: {compact({'error': {'message': 'The job was cancelled.', 'code': 'cancelled'}})}\n\n"
Break = Callable[[Scene], None]


def background() -> Scene:
    scene = Scene(Use.BACKGROUND)
    scene.answer.status, scene.answer.pieces = 202, []
    scene.call.polls = [job_answer("in_progress"), job_answer("completed")]
    return scene


def unary() -> Scene:
    scene = Scene(Use.UNARY)
    scene.answer.pieces = [(0.0, scene.state.results[0][1])]
    scene.state.events = numbered(frames_of(stream_of(head(scene.job_id), [PLAIN.text])))
    return scene


def cancelled() -> Scene:
    """After two tokens."""
    scene = Scene(Use.CANCELLED_STREAM, SIGNED, "cancelled")
    frames = [*scene.frames[:3], ERROR, DONE]
    scene.answer.pieces = pieces(frames)
    scene.state.events = numbered(frames)
    scene.state.results = [(409, b"{}")] * 2
    scene.call.cancel = job_answer("cancelled")
    return scene


def left() -> Scene:
    scene = cancelled()
    scene.call.use = Use.LEFT_STREAM
    scene.call.cancel = None
    scene.answer.pieces = pieces(scene.frames[:2])
    ended(scene.answer, End.LEFT)
    return scene


def refused() -> Scene:
    scene = background()
    scene.answer.status, scene.answer.retry_after, scene.answer.job_id = 503, "2", ""
    scene.answer.pieces = [(0.0, b'{"error":{"message":"The broker does not answer."}}')]
    scene.call.polls = []
    scene.aftermath.jobs.clear()
    scene.aftermath.listed.clear()
    return scene


def unanswered() -> Scene:
    """A unary call whose API was killed. Only the tag shows which job belongs to it."""
    scene = unary()
    scene.answer.status, scene.answer.pieces, scene.answer.job_id = 0, [], ""
    ended(scene.answer, End.CUT)
    strike(scene.ledger, Kind.API_KILLED, API, at=0.0)
    return scene


SCENES = [Scene, background, unary, cancelled, left, refused, unanswered, cut_and_resumed, lambda: Scene(prompt=SIGNED)]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: getattr(scene, "__name__", "signed"))
def test_where_all_is_well_nothing_is_violated(scene: Callable[[], Scene]) -> None:
    made = scene()
    assert check(made.ledger, made.aftermath) == []


def refuse_rudely(scene: Scene) -> None:
    scene.answer.retry_after = ""


def fail(scene: Scene) -> None:
    scene.answer.status = 500


def cut_without_a_kill(scene: Scene) -> None:
    ended(scene.answer, End.CUT)


def leave_open(scene: Scene) -> None:
    ended(scene.answer, End.OPEN)


def end_another_way(scene: Scene) -> None:
    scene.state.statuses = ["failed", "failed"]


def disagree(scene: Scene) -> None:
    scene.state.statuses = ["completed", "in_progress"]


def never_end(scene: Scene) -> None:
    scene.state.statuses = ["in_progress", "in_progress"]


def forget(scene: Scene) -> None:
    scene.aftermath.listed.clear()


def lose(scene: Scene) -> None:
    scene.state.statuses = ["HTTP 404", "HTTP 404"]


def run_twice(scene: Scene) -> None:
    scene.aftermath.listed["chatcmpl-other"] = scene.call.tag


def invent(scene: Scene) -> None:
    scene.aftermath.jobs["chatcmpl-other"] = JobState("another", ["completed"] * 2)


def change_the_result(scene: Scene) -> None:
    scene.state.results[1] = (200, b"{}")


def say_something_else(scene: Scene) -> None:
    scene.state.results = [(200, result_of(" t000"))] * 2


def answer_something_else(scene: Scene) -> None:
    scene.answer.pieces = [(0.0, b"{}")]


def leave_a_frame_out(scene: Scene) -> None:
    del scene.answer.pieces[2]


def send_a_frame_twice(scene: Scene) -> None:
    scene.answer.pieces.insert(2, scene.answer.pieces[2])


def go_on_after_the_end(scene: Scene) -> None:
    scene.answer.pieces.append((9.0, scene.frames[1].encode()))


def end_without_done(scene: Scene) -> None:
    scene.answer.pieces.pop()


def end_the_log_twice(scene: Scene) -> None:
    scene.state.events = numbered([*scene.frames, DONE])


def cut_the_log_short(scene: Scene) -> None:
    scene.state.events = numbered([*scene.frames[:2], DONE])


def misnumber_the_log(scene: Scene) -> None:
    scene.state.events = numbered(scene.frames, 1)


def resume_too_early(scene: Scene) -> None:
    scene.call.answers[1].pieces = [(9.0, numbered(scene.frames[2:], 2))]


def cancel_without_an_error(scene: Scene) -> None:
    frames = [*scene.frames[:3], DONE]
    scene.answer.pieces, scene.state.events = pieces(frames), numbered(frames)


def let_a_zombie_write(scene: Scene) -> None:
    said = words(SIGNED, ("aaaa", "bbbb", "bbbb", "aaaa"))
    frames = frames_of(stream_of(head(scene.job_id), said))
    scene.answer.pieces, scene.state.events = pieces(frames), numbered(frames)
    scene.state.results = [(200, result_of("".join(said)))] * 2


def leave_a_message(scene: Scene) -> None:
    scene.aftermath.messages.append("ignite.dead holds 1 ready and 0 unacknowledged")


def leave_a_key(scene: Scene) -> None:
    scene.aftermath.lasting_keys.append("ignite:something")


def keep_the_owner(scene: Scene) -> None:
    scene.state.leftovers.append("owner=worker-1")


def leak(scene: Scene) -> None:
    scene.aftermath.counts += [Count("open files of api-1.1", 30, 30), Count("open files of api-2.1", 30, 31)]


def crash(scene: Scene) -> None:
    scene.ledger.mishaps.append("worker-1.1 ended by itself with status 1")


BREAKS: list[tuple[Callable[[], Scene], Break, str]] = [
    (refused, refuse_rudely, "a 503 without Retry-After"),
    (refused, fail, "answered 500"),
    (unary, cut_without_a_kill, "was cut by api-1.1, which was not killed"),
    (Scene, leave_open, "still waits for its end"),
    (background, end_another_way, "a poll said completed, and later polls failed"),
    (background, end_another_way, "ended failed"),
    (unanswered, end_another_way, "ended failed"),
    (Scene, disagree, "the APIs disagree"),
    (Scene, never_end, "never ended"),
    (unanswered, never_end, "never ended"),
    (background, lose, "never ended, it is HTTP 404"),
    (background, forget, "does not list it"),
    (Scene, run_twice, "became 2 jobs"),
    (Scene, invent, "nobody asked for it"),
    (background, change_the_result, "another one each time"),
    (background, say_something_else, "its result says ' t000'"),
    (unary, answer_something_else, "its answer is not its result"),
    (Scene, leave_a_frame_out, "frame 2 of 7 is"),
    (Scene, send_a_frame_twice, "frame 3 of 7 is"),
    (Scene, go_on_after_the_end, "8 frames instead of 7"),
    (Scene, end_without_done, "6 frames instead of 7"),
    (cancelled, leave_a_frame_out, "its client saw 4 frames, its events tell 5"),
    (Scene, end_the_log_twice, "its ends are at [6, 7]"),
    (background, cut_the_log_short, "its log: frame 2 of 7"),
    (Scene, misnumber_the_log, "not numbered from 0 on"),
    (cut_and_resumed, resume_too_early, "resumed, its frames were numbered [2, 3"),
    (cancelled, cancel_without_an_error, "ends cancelled without an error"),
    (lambda: Scene(prompt=SIGNED), let_a_zombie_write, "attempt aaaa wrote again after another"),
    (Scene, leave_a_message, "ignite.dead holds 1"),
    (Scene, leave_a_key, "keep ignite:something for ever"),
    (Scene, keep_the_owner, "its record still has owner=worker-1"),
    (Scene, leak, "31 open files of api-2.1"),
    (Scene, crash, "ended by itself"),
]


@pytest.mark.parametrize(
    ("scene", "harm", "said"), BREAKS, ids=[f"{each[1].__name__} {at}" for at, each in enumerate(BREAKS)]
)
def test_what_is_broken_is_named(scene: Callable[[], Scene], harm: Break, said: str) -> None:
    made = scene()
    harm(made)
    violations = check(made.ledger, made.aftermath)
    assert any(said in each for each in violations), violations


def test_each_invariant_has_a_case_that_breaks_it() -> None:
    broken: set[object] = set()
    for scene, harm, _ in BREAKS:
        made = scene()
        harm(made)
        broken |= {each for each in INVARIANTS if list(each(Evidence(made.ledger, made.aftermath)))}
    assert broken == set(INVARIANTS)


def test_comments_and_pieces_cut_anywhere_are_no_part_of_the_frames() -> None:
    scene = Scene()
    data = b": queued position=1\n\n" + numbered(scene.frames).replace(b"id: 2", b": running\n: running\nid: 2")
    answer = Answer(API, "", pieces=[(float(at), data[at : at + 7]) for at in range(0, len(data), 7)])
    assert [f"data: {frame.data}\n\n" for frame in answer.frames] == scene.frames
    assert [frame.number for frame in answer.frames] == list(range(7))


def test_a_frame_that_has_not_come_in_full_is_not_seen() -> None:
    scene = Scene()
    assert len(Answer(API, "", pieces=[(0.0, "".join(scene.frames).encode()[:-1])]).frames) == 6


def test_a_takeover_lasts_from_the_last_token_of_one_attempt_to_the_first_of_the_next() -> None:
    scene = Scene(prompt=SIGNED)
    scene.answer.pieces = [(at, data) for at, (_, data) in zip((0, 1, 2, 6, 7, 8, 9), scene.answer.pieces, strict=True)]
    strike(scene.ledger, Kind.WORKER_KILLED, "worker-1.1", at=2.1, held=frozenset({"chatcmpl-another"}))
    strike(scene.ledger, Kind.WORKER_STOPPED, "worker-2.1", at=2.2, held=frozenset({scene.job_id}))

    found = takeovers(scene.ledger)

    assert {kind: lasted for kind, lasted in found.items() if lasted} == {Kind.WORKER_STOPPED: [(4, scene.job_id)]}


def test_a_takeover_that_no_fault_explains_is_not_counted() -> None:
    scene = Scene(prompt=SIGNED)
    assert not any(takeovers(scene.ledger).values())


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([3.0], 0.99)) == (50, 99, 3)


def test_a_signed_prompt_says_so_and_a_plain_one_does_not() -> None:
    asked = [str(SignedPrompt(signed=signed).body()["messages"]) for signed in (True, False)]
    assert [bool(re.search("sign=1", each)) for each in asked] == [True, False]


def test_a_call_of_which_its_client_never_heard_may_have_been_cancelled_and_a_job_may_not() -> None:
    found: dict[Use, int] = {}
    for use in (Use.STREAM, Use.BACKGROUND):
        scene = Scene(use, status="cancelled")
        scene.answer.status, scene.answer.job_id = 0, ""
        found[use] = len(list(jobs_complete_unless_given_up(Evidence(scene.ledger, scene.aftermath))))
    assert found == {Use.STREAM: 0, Use.BACKGROUND: 1}
