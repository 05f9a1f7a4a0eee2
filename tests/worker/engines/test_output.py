"""What vLLM prints, as log events, and what explains its end."""

import asyncio

import pytest
from structlog.testing import capture_logs

from worker.engines.managed.output import LONGEST_LINE, Output, parsed

# As vLLM 0.32 prints them, shortened.
OUT_OF_MEMORY = """\
(APIServer pid=7) INFO 11-28 18:49:07 [utils.py:253] non-default args: {'model': 'm'}
(EngineCore_DP0 pid=9) ERROR 11-28 18:49:20 [core.py:936] EngineCore failed to start.
(EngineCore_DP0 pid=9) ERROR 11-28 18:49:20 [core.py:936] Traceback (most recent call last):
(EngineCore_DP0 pid=9) ERROR 11-28 18:49:20 [core.py:936]   File "core.py", line 1, in run
(EngineCore_DP0 pid=9) ERROR 11-28 18:49:20 [core.py:936] torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB
(APIServer pid=7) Traceback (most recent call last):
(APIServer pid=7)   File "vllm", line 8, in <module>
(APIServer pid=7) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
WRONG_FLAG = """\
usage: vllm serve [model_tag] [options]
vllm: error: unrecognized arguments: --no-such-flag
"""
NO_MODEL = """\
INFO 11-28 18:49:07 [__init__.py:216] Automatically detected platform cpu.
Traceback (most recent call last):
OSError: /no/such is not a local folder and is not a valid model identifier
"""


def taken(text: str) -> tuple[Output, list[tuple[str, str]]]:
    async def read() -> Output:
        output, stream = Output("vllm"), asyncio.StreamReader()
        stream.feed_data(text.encode())
        stream.feed_eof()
        await output.read(stream)
        return output

    with capture_logs() as logs:
        output = asyncio.run(read())
    return output, [(line["log_level"], line["said"]) for line in logs]


@pytest.mark.parametrize(
    ("line", "level", "said"),
    [
        ("INFO 11-28 18:49:07 [api_server.py:1] Started", "info", "[api_server.py:1] Started"),
        ("(EngineCore_DP0 pid=9) WARNING 11-28 18:49:07 [a.py:1] low", "warning", "[a.py:1] low"),
        ("ERROR 11-28 18:49:07 [a.py:1] no", "error", "[a.py:1] no"),
        ("CRITICAL: no", "error", "no"),
        ("INFO:     Application startup complete.", "info", "Application startup complete."),
        (
            'INFO:     127.0.0.1:5 - "GET /health HTTP/1.1" 200 OK',
            "debug",
            '127.0.0.1:5 - "GET /health HTTP/1.1" 200 OK',
        ),
        ("INFORMATION is not a level", "info", "INFORMATION is not a level"),
    ],
)
def test_a_line_has_the_level_that_it_says(line: str, level: str, said: str) -> None:
    assert parsed(line) == (level, said)


def test_a_line_without_a_level_has_the_last_one() -> None:
    _, lines = taken("ERROR 11-28 18:49:07 [a.py:1] no\n  more of it\r\nINFO: fine\n10%\r20%\n\n")
    assert [level for level, _ in lines] == ["error", "error", "info", "info", "info"]
    assert lines[-1] == ("info", "20%")


@pytest.mark.parametrize(
    ("printed", "cause"),
    [
        (OUT_OF_MEMORY, "torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB"),
        (WRONG_FLAG, "vllm: error: unrecognized arguments: --no-such-flag"),
        (NO_MODEL, "OSError: /no/such is not a local folder and is not a valid model identifier"),
        ("INFO: begun\nsegmentation fault\n", "segmentation fault"),
        (OUT_OF_MEMORY.splitlines()[-1], OUT_OF_MEMORY.splitlines()[-1].partition(") ")[2]),
        ("", ""),
    ],
    ids=["memory", "flag", "model", "no error", "only the consequence", "nothing"],
)
def test_the_first_cause_explains_the_end(printed: str, cause: str) -> None:
    assert taken(printed)[0].last_words == cause


def test_a_line_without_an_end_is_bounded() -> None:
    _, lines = taken("x" * 500_000 + "\nthe next\n")
    assert [len(said) for _, said in lines] == [LONGEST_LINE, len("the next")]
