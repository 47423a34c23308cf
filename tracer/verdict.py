"""What a whole trace says, in sentences: what is wrong, since when, how sure, who, what to do; and what could not be seen. Pure.

Every text is safe to show on one line (`text.printable`); escaping for a page or a document is left to those who write one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracer.clock import ClockOffset, rfc3339
from tracer.collected.collector import Collected
from tracer.exactness import UNTIMED_NS
from tracer.findings import Finding, FindingState, Severity, Suspect
from tracer.header import TraceHeader
from tracer.remotes import where_text
from tracer.summary import Summary
from tracer.text import comm_text, duration_text, printable

_RECOVERED = "recovered"
_BEYOND = "Not every failure shows in TCP; the README says which do not."
_ID_SHOWN = 12
"""Digits of a container's id, as the engines' own commands show it."""
_WHOLE_FROM = 100
"""Rates above need no fractions."""
_LOSSES_TOLD = 5
"""Intervals that are told one by one."""
_EXACT_NS = 1_000
"""Times that are as exact as this need no remark."""


@dataclass(frozen=True)
class Verdict:
    """The answer to the question that a trace was taken for.

    Attributes:
        severity: of the gravest finding; None: nothing was found.
        headline: what is wrong, in a few words, or that nothing was found, or that nobody can say.
        sentence: the same at length.
        fine: nothing was found, every rule could judge, and nothing is missing.
        since, sure, where, who, advice: of the gravest finding; "" where there is none.
        main: that finding.
        others: all other findings, gravest first; what recovered among them.
    """

    severity: Severity | None
    headline: str
    sentence: str
    fine: bool
    since: str
    sure: str
    where: str
    who: str
    advice: str
    main: Finding | None
    others: tuple[Finding, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, gravest first."""
        return () if self.main is None else (self.main, *self.others)

    @property
    def extras(self) -> tuple[Finding, ...]:
        """Those that headline and sentence are not about."""
        return self.findings if self.severity is None else self.others

    def parts(self) -> tuple[tuple[str, str], ...]:
        """(heading, text) of what is known beyond the sentence."""
        return _parts(self.since, self.sure, self.where, self.who, self.advice)


def verdict_of(collected: Collected) -> Verdict:
    """The verdict on a trace."""
    ranked = tuple(sorted(collected.findings, key=_gravity))
    if not ranked or _is_no_fault(ranked[0]):
        headline, sentence, fine = _nothing_found(collected)
        return Verdict(None, headline, sentence, fine, "", "", "", "", "", ranked[0] if ranked else None, ranked[1:])
    main = ranked[0]
    more = f", and {len(ranked) - 1} more" if len(ranked) > 1 else ""
    return Verdict(
        main.severity,
        f"{headline_of(main, collected)}{more}",
        sentence_of(printable(main.summary)),
        False,
        *_answers(main, collected),
        main,
        ranked[1:],
    )


def tone_of(verdict: Verdict) -> str:
    """Its severity; without one "fine", or "unsure" where that nothing was found does not say that all is well."""
    if verdict.severity is not None:
        return verdict.severity.text
    return "fine" if verdict.fine else "unsure"


def headline_of(finding: Finding, collected: Collected) -> str:
    """A finding in a few words: how grave, what, where, and whether it is over."""
    over = " (over)" if finding.state is FindingState.CLOSED else ""
    return f"{finding.severity.text.upper()}: {finding.rule} at {endpoint_label(collected, finding.endpoint_id)}{over}"


def parts_of(finding: Finding, collected: Collected) -> tuple[tuple[str, str], ...]:
    """(heading, text) of what is known of a finding beyond its sentence."""
    return _parts(*_answers(finding, collected))


def _answers(finding: Finding, collected: Collected) -> tuple[str, str, str, str, str]:
    """Since when, how sure, where, who, what to do."""
    return (
        since_text(finding, collected),
        sure_text(finding),
        where_text(finding.evidence),
        "; ".join(map(who_text, finding.suspects)),
        printable(finding.advice),
    )


def _parts(*texts: str) -> tuple[tuple[str, str], ...]:
    headings = ("Since", "How sure", "Where", "Who", "What to do")
    return tuple((heading, text) for heading, text in zip(headings, texts, strict=True) if text)


def _is_no_fault(finding: Finding) -> bool:
    return finding.benign or finding.rule.endswith(_RECOVERED)


def _gravity(finding: Finding) -> tuple[bool, int, bool, float, int]:
    """The gravest first: what is wrong before what is right again, then severity, still open, sureness, age."""
    over = finding.state is FindingState.CLOSED
    return (_is_no_fault(finding), -int(finding.severity), over, -finding.confidence, finding.started_ns)


def _nothing_found(collected: Collected) -> tuple[str, str, bool]:
    """Headline and sentence where no rule found a fault, and whether that means that all is well."""
    summary = collected.summary
    if not summary.connections:
        return "Nothing to judge", "The trace has no connection to a registry: there was nothing to judge.", False
    judged = f"No rule found anything wrong with {count_text(summary.connections, 'connection')}"
    silent = [rule for rule, _ in summary.abstained if rule != "*"]
    not_judged = f"; {count_text(len(silent), 'rule')} could not judge ({', '.join(silent)})" if silent else ""
    if 2 * len(silent) > collected.rules > 0:
        return f"Can't say: {count_text(len(silent), 'rule')} could not judge", f"{judged}{not_judged}.", False
    if _is_doubtful(collected):
        return "Nothing found in what was seen", f"{judged}, as far as they were seen{not_judged}.", False
    if summary.abstained:
        return "Nothing found by the rules that could judge", f"{judged}{not_judged}.", False
    return "Nothing found", f"{judged}; every rule could judge. {_BEYOND}", True


def _is_doubtful(collected: Collected) -> bool:
    """Whether anything may have happened that the trace does not show."""
    summary = collected.summary
    missing = summary.lost or summary.gaps or summary.unresolved or summary.losses or not summary.loss_known
    return bool(collected.truncated or missing or summary.coverage != 1)


def sentence_of(text: str) -> str:
    """With a full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def endpoint_label(collected: Collected, endpoint_id: int) -> str:
    """What an endpoint is called, safe to show."""
    return printable(collected.endpoints.get(endpoint_id, f"endpoint {endpoint_id}"))


def since_text(finding: Finding, collected: Collected) -> str:
    """From when to when, and how long."""
    clock, summary = collected.header.clock, collected.summary
    started = moment_text(finding.started_ns, clock, summary.first_ns)
    if finding.state is FindingState.CLOSED:
        until = moment_text(finding.ended_ns, clock, summary.first_ns)
        return f"{started} until {until} ({duration_text(finding.ended_ns - finding.started_ns)}); over"
    lasted_ns = max(summary.last_ns, finding.at_ns) - finding.started_ns
    return f"{started}; still so at the end of the trace, {duration_text(lasted_ns)} later"


def moment_text(ts_ns: int, clock: ClockOffset | None, first_ns: int) -> str:
    """A boottime as date and time in UTC, to the ms; without a clock as seconds since the beginning; "-" unknown."""
    if ts_ns < 0:
        return "-"
    if clock is None:
        return f"+{(ts_ns - max(first_ns, 0)) / 1e9:.3f} s"
    return f"{str(rfc3339(np.array([ts_ns], np.int64), clock)[0])[:23].replace('T', ' ')} UTC"


def sure_text(finding: Finding) -> str:
    """How sure the name is, what else it may be, and how much was seen."""
    causes = finding.evidence.get("causes") or {}
    others = ", ".join(f"{printable(str(name))} {share:.0%}" for name, share in causes.items())
    coverage = finding.evidence.get("coverage")
    seen = f"; {coverage:.0%} of the connections were seen" if coverage is not None and coverage < 1 else ""
    return f"{finding.confidence:.0%}{f' (may be: {others})' if others else ''}{seen}"


def who_text(suspect: Suspect) -> str:
    """A suspect: name, process, place, command, share and rate."""
    name = printable(comm_text(suspect.comm)) or "somebody unknown"
    pid = f"[{suspect.pid}]" if suspect.pid >= 0 else ""
    place = suspect.container[:_ID_SHOWN] if suspect.container else suspect.unit
    where = f" in {printable(place)}" if place else ""
    command = f" ({printable(suspect.cmdline)})" if suspect.cmdline else ""
    of_what = "of these connections" if suspect.opens_per_min is None else "of the connections"
    rate = "" if suspect.opens_per_min is None else f", {_rate_text(suspect.opens_per_min)} a minute"
    return f"{name}{pid}{where}{command}: {suspect.share:.0%} {of_what}{rate}"


def _rate_text(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= _WHOLE_FROM else f"{rate:.3g}"


def unseen(collected: Collected) -> tuple[str, ...]:
    """What was lost, not seen, not judged or not known, a sentence each; never empty of what a reader has to know."""
    header, summary, rows = collected.header, collected.summary, collected.rows
    told = []
    if collected.truncated:
        told.append(f"The trace is incomplete: {printable(collected.truncated)}.")
    told += _losses(summary, header)
    if summary.gaps:
        told.append(f"{count_text(summary.gaps, 'connection')} with missing transitions: their times are not whole.")
    told += _sight(summary, header)
    if summary.unresolved:
        names = ", ".join(map(printable, summary.unresolved))
        told.append(f"No address is known of {names}: nothing of it was watched.")
    before = int((rows["preexisting"] == 1).sum())
    if before:
        told.append(f"{count_text(before, 'connection')} open before the trace began: no opening time is known.")
    nameless = int((rows["pid"] < 0).sum())
    if nameless:
        told.append(f"The owner of {count_text(nameless, 'connection')} is not known.")
    told += _not_judged(summary)
    if header.clock is None:
        told.append("The trace has no wall clock: times are seconds since its beginning.")
    if summary.inbound:
        told.append(f"{count_text(summary.inbound, 'connection')} opened from outside: counted, not shown.")
    for (old, new), count in summary.unknown_transitions.items():
        told.append(f"Unknown transition {printable(old)} to {printable(new)}, {count} times.")
    return tuple(told)


def _not_judged(summary: Summary) -> list[str]:
    silent = [rule for rule, _ in summary.abstained if rule != "*"]
    if summary.resolution_ns < UNTIMED_NS or not silent:
        return [f"{'' if rule == '*' else f'{rule} did not judge: '}{printable(why)}." for rule, why in summary.abstained]
    return [f"{count_text(len(silent), 'rule')} could not judge without times: {', '.join(silent)}."]


def _losses(summary: Summary, header: TraceHeader) -> list[str]:
    told = []
    for loss in summary.losses[:_LOSSES_TOLD]:
        since, until = (moment_text(time_ns, header.clock, summary.first_ns) for time_ns in (loss.since_ns, loss.until_ns))
        lost = "Nobody was looking" if loss.lost is None else f"{count_text(loss.lost, 'event')} lost"
        told.append(f"{lost} between {since} and {until}: counts are too low.")
    if len(summary.losses) > _LOSSES_TOLD:
        left = count_text(len(summary.losses) - _LOSSES_TOLD, "more interval")
        told.append(f"Events lost in {left}; {count_text(summary.lost, 'event')} in all.")
    if summary.lost and not summary.losses:
        told.append(f"{count_text(summary.lost, 'event')} lost: counts are too low.")
    if not summary.loss_known:
        told.append("What took the trace does not say what it lost: anything may be missing.")
    return told


def _sight(summary: Summary, header: TraceHeader) -> list[str]:
    """The source, how exact it is, and how much it saw."""
    told = []
    if summary.source != header.source:
        told.append(
            f"The source changed from {printable(header.source)} to {printable(summary.source)} while the trace was taken."
        )
    if summary.resolution_ns >= UNTIMED_NS:
        told.append("There are no times: durations are right, but not when anything happened.")
    elif summary.resolution_ns > _EXACT_NS:
        told.append(f"Times are exact to {duration_text(summary.resolution_ns)} only (source {printable(summary.source)}).")
    if summary.counted:
        told.append(
            f"{summary.opened:,} of {count_text(summary.counted, 'opened connection')} seen "
            f"({summary.opened / summary.counted:.0%})."
        )
    elif summary.coverage is None:
        told.append("It is not known how many connections were missed.")
    return told


def count_text(count: int, noun: str) -> str:
    """So many of them."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
