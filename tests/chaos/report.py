"""Formats the result of a campaign. Pure functions."""

from collections import Counter
from collections.abc import Iterator

from tests.chaos.campaign import Findings, Options
from tests.chaos.checker import Evidence, clients_saw_the_whole_stream, left_behind, lost_jobs
from tests.chaos.ledger import Use
from tests.chaos.takeovers import percentile, takeovers

SHOWN = 40
"""Most violations that are printed."""


def command(options: Options) -> str:
    arguments = f"--seed {options.seed} --seconds {options.seconds:g} --apis {options.apis} --workers {options.workers}"
    return f'make chaos ARGS="{arguments}{f" --build {options.build}" if options.build else ""}"'


def plan_lines(options: Options) -> Iterator[str]:
    yield f"Plan for seed {options.seed}, {options.seconds:g} seconds of load (targets count through what is up then):"
    yield from (f"  {fault}" for fault in options.plan)


def report_lines(findings: Findings) -> Iterator[str]:
    options = findings.options
    yield ""
    yield f"Chaos campaign: seed {options.seed}, {options.seconds:g} s of load, {findings.seconds:.0f} s in all"
    yield f"{options.apis} APIs, {options.workers} workers" + (f", broken build {options.build}" * bool(options.build))
    yield from fault_lines(findings)
    yield from call_lines(findings)
    yield from job_lines(findings)
    yield from takeover_lines(findings)
    yield from violation_lines(findings)


def fault_lines(findings: Findings) -> Iterator[str]:
    struck = Counter(each.kind for each in findings.ledger.struck)
    yield f"Faults injected: {struck.total()} ({findings.ledger.skipped} planned ones found nothing to strike)"
    yield from (f"  {count:5}  {kind}" for kind, count in struck.most_common())


def call_lines(findings: Findings) -> Iterator[str]:
    calls = findings.ledger.calls
    uses = Counter(call.use for call in calls)
    refused = Counter(call.first.status for call in calls if call.refused)
    unanswered = sum(1 for call in calls if call.answers and call.first.status == 0)
    yield f"Calls made: {len(calls)}"
    yield from (f"  {count:5}  {use}" for use, count in uses.most_common())
    yield f"Accepted: {sum(1 for call in calls if call.accepted)}"
    yield f"Refused with Retry-After: {refused[429]} with 429, {refused[503]} with 503"
    yield f"Unanswered, their API having been killed or their client having left: {unanswered}"
    yield f"Streams resumed from another API: {sum(1 for call in calls if call.resumed)}"


def job_lines(findings: Findings) -> Iterator[str]:
    evidence = Evidence(findings.ledger, findings.aftermath)
    outcomes = Counter((*state.statuses, "unknown")[0] for state in findings.aftermath.jobs.values())
    streams = sum(1 for call in findings.ledger.calls if call.use is Use.STREAM and call.accepted)
    tokens = sum(len(call.frames) for call in findings.ledger.calls)
    yield f"Jobs: {outcomes.total()}"
    yield from (f"  {count:5}  {outcome}" for outcome, count in outcomes.most_common())
    yield f"Accepted jobs lost: {len(lost_jobs(evidence))}"
    yield f"Jobs left behind by calls that were refused or cut: {len(left_behind(evidence))}"
    broken = sum(1 for _ in clients_saw_the_whole_stream(evidence))
    yield f"Streams broken: {broken} of {streams}; frames received: {tokens}"


def takeover_lines(findings: Findings) -> Iterator[str]:
    for kind, found in takeovers(findings.ledger).items():
        if found:
            times = [seconds for seconds, _ in found]
            middle, most = percentile(times, 0.5), percentile(times, 0.99)
            worst = f"longest {max(found)[0]:.2f} s, {max(found)[1]}"
            yield f"Takeover after '{kind}': {len(times)} streams, p50 {middle:.2f} s, p99 {most:.2f} s ({worst})"
        else:
            yield f"Takeover after '{kind}': none seen"


def violation_lines(findings: Findings) -> Iterator[str]:
    violations = findings.violations
    yield f"Violations: {len(violations)}"
    yield from (f"  {violation}" for violation in violations[:SHOWN])
    if len(violations) > SHOWN:
        yield f"  … and {len(violations) - SHOWN} more"
    if violations:
        yield f"Repeat it with: {command(findings.options)}"
