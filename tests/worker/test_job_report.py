"""What the log line of a finished job says of its error."""

from shared.errors import EngineError, EngineRefused
from worker.telemetry.job_report import words_for_the_log


def test_a_refusal_stays_out_of_the_log_because_engines_quote_the_request() -> None:
    assert words_for_the_log(EngineRefused("Invalid input: 'my secret prompt'").to_dict()) is None


def test_a_failure_has_its_words() -> None:
    assert words_for_the_log(EngineError("The engine ran out of memory.").to_dict()) == "The engine ran out of memory."
