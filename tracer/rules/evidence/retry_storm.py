"""evidence: `retry-storm`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tracer.cadence import Cadence, Rhythm, latest_cadence
from tracer.clients import Family
from tracer.findings import Severity
from tracer.lifecycle import REASON_NAMES
from tracer.roles import Role
from tracer.rules.outcomes import ERROR_MAX_BYTES, TERSE_MAX_BYTES, Outcome, judged_until, same_request
from tracer.rules.rule import SECOND_NS, Answer, Over, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.view import View
from tracer.text import bytes_text, comm_text, printable
from tracer.visits import Client, Visit

_ADVICE = (
    "find what restarts it and stop that first (a service whose start fails, a pod in back-off, a loop in a script); "
    "waiting does not help, and every attempt counts against the quota"
)
_LOOK_MAX = 4
"""dockerd: a TLS hello, /v2/, HEAD and GET of the manifest."""
_GROWTH_MIN = 1.5
"""Least factor of a growing rhythm; services that take turns in one daemon look as if they grew slowly."""
_RHYTHM_ATTEMPTS = 16
_NEARLY_ALL = 0.8
_STRAY, _STRICT = 0.2, 0.1
"""How far distances may stray from their median: where the attempts fail anyway, and where the rhythm alone tells."""
_REFUSED_CAUSES = {"causes": {"rate-limit": 0.5, "server-error": 0.3, "other-refusal": 0.2}}
"""Why a registry that answers each time gives next to nothing, where nothing else tells."""
_FRUITLESS = (Outcome.FAILED, Outcome.REFUSED, Outcome.TERSE)


@dataclass(frozen=True)
class RetryStormThresholds(Thresholds):
    """Numbers of the rule `retry-storm`."""

    attempts_min: int = threshold(5, 4, 32, "attempts in a row that failed, with a rhythm")
    engine_attempts_min: int = threshold(5, 4, 64, "attempts of a pull engine with the same requests that brought nothing")
    engine_period_max_s: float = threshold(15, 1, 600, "longest period of a pull engine that brings nothing")
    period_max_s: float = threshold(400, 1, 3600, "longest pause between attempts; kubelet's is 300 s")
    failed_share: float = threshold(0.8, 0.1, 1, "least share of the attempts that failed for certain")
    tight_opens_min: int = threshold(30, 10, 10_000, "connections without a pause between them that got nothing or next to it")
    tight_s: float = threshold(5, 1, 600, "for at least so long")
    hold_periods: float = threshold(4, 1, 100, "over when nothing more was seen for so many periods")


class RetryStorm(Rule[RetryStormThresholds]):
    """Somebody tries again and again, and never gets anything.

    Finds: attempts of one program at one endpoint in an even, linearly or exponentially growing rhythm that fail (refused,
        timed out, reset, or answered with next to nothing); or a pull engine (dockerd, containerd, kubelet, CRI-O, BuildKit)
        that asks the same in an even, short rhythm and never downloads, as for a service whose mount fails.
    Matters: it burns the quota of everybody behind the same address; each host alone looks mild.
    Needs: openings with their owner; payload bytes, for attempts that reach the registry.
    Parameters: attempts_min, engine_attempts_min, engine_period_max_s, period_max_s, failed_share, tight_opens_min,
        tight_s, hold_periods.
    Cannot tell apart: a restart loop from a monitor that was built on the same engine; why the attempts fail (see the other
        findings at the endpoint). A program other than an engine that looks at a tag every second and gets its answer is none.
    """

    id: ClassVar[str] = "retry-storm"
    Settings = RetryStormThresholds
    resolution_ns_max = SECOND_NS

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        for client, visit in view.judged:
            if view.role(client.owner.endpoint_id) not in (Role.AUTH, Role.BLOB):
                yield from self._judge_client(view, client, visit)
        for _, client in sorted(view.visits.touched.items()):
            yield from self._tight_loop(view, client)

    def _judge_client(self, view: View, client: Client, latest: Visit) -> Iterator[Answer]:
        visits = judged_until(client, latest)
        family = view.family(client)
        if visits[-1].received_max > ERROR_MAX_BYTES:
            if not family.one_shot:  # else it may be another one of several loops
                yield Over(client.owner, visits[-1].last_end_ns, f"{bytes_text(visits[-1].received_max)} were downloaded")
            return
        fruitless = _FRUITLESS if family.puller else (Outcome.FAILED, Outcome.REFUSED)
        run = _run(visits, fruitless if family.one_shot else None)
        failing = sum(visit.outcome in fruitless for visit in run[-self.settings.attempts_min :])
        failed = len(run) >= self.settings.attempts_min and failing >= self.settings.failed_share * self.settings.attempts_min
        if not failed and family.engine:
            run = [visit for visit in run if _same_requests(visit, run[-1]) and _only_asks(visit)]
        idle_engine = family.engine and len(run) >= self.settings.engine_attempts_min
        if not failed and not idle_engine:
            return
        if _downloads_elsewhere(view, client, run[0].start_ns, _pids(run, family)):
            return  # it fell through to another endpoint, or this is not where it gets its blobs from
        found = rhythm(np.array([visit.start_ns for visit in run], np.int64), _STRAY if failed else _STRICT)
        if found.rhythm is Rhythm.NONE or not 0 < found.period_ns <= self.settings.period_max_s * SECOND_NS:
            return
        if family.backs_off and len({visit.pid for visit in run}) == 1 and not family.engine:
            return  # the client's own patience with a 429, and not somebody who starts it again
        if not client.owner.comm and found.rhythm is Rhythm.EXPONENTIAL:
            return  # it may be just that: whether it is one process all the time is not known
        if not failed and (found.rhythm is not Rhythm.FIXED or found.period_ns > self.settings.engine_period_max_s * SECOND_NS):
            return
        yield self._sighting(view, client, run, found, family, failed)

    def _tight_loop(self, view: View, client: Client) -> Iterator[Answer]:
        """Attempts that follow each other so closely that they are one visit."""
        visit = client.visits[-1] if client.visits else None
        if visit is None or visit.outcome is not None or visit.opens < self.settings.tight_opens_min:
            return
        lasted_ns = visit.last_open_ns - visit.start_ns
        if lasted_ns < self.settings.tight_s * SECOND_NS or visit.received_max > TERSE_MAX_BYTES:
            return
        if visit.sized < visit.established or visit.ended < 0.8 * visit.opens:
            return
        if _downloads_elsewhere(view, client, visit.start_ns):
            return
        owner, period_s = client.owner, lasted_ns / SECOND_NS / (visit.opens - 1)
        got = f"got at most {visit.received_max} bytes" if visit.received_max >= 0 else "was never established"
        yield Sighting(
            key=owner,
            endpoint_id=owner.endpoint_id,
            started_ns=visit.start_ns,
            seen_ns=visit.last_open_ns,
            hold_ns=10 * SECOND_NS,
            severity=Severity.CRITICAL,
            confidence=0.85,
            summary=(
                f"{printable(comm_text(owner.comm)) or 'an unknown process'} opens a connection to "
                f"{view.label(owner.endpoint_id)} every {period_s:.3g} s, {visit.opens} so far, and {got} each time"
            ),
            advice=_ADVICE,
            evidence={
                "attempts": visit.opens,
                "rhythm": "none",
                "period_s": round(period_s, 4),
                "new_process_each_time": not visit.one_process,
                "answer_max_bytes": visit.received_max if visit.received_max >= 0 else None,
                "reasons": {REASON_NAMES[reason]: count for reason, count in enumerate(visit.reasons) if count},
            },
            suspects=view.suspect(client),
        )

    def _sighting(self, view: View, client: Client, run: list[Visit], found: Cadence, family: Family, failed: bool) -> Sighting:
        owner = client.owner
        # an answer that is smaller than it used to be may be a good one: a slimmer image, a 304
        sure = failed and any(visit.outcome is not Outcome.REFUSED for visit in run)
        new_process = len({visit.pid for visit in run}) > len(run) // 2
        likely = likely_client(found, family, new_process)
        period_s = found.period_ns / SECOND_NS
        outcome = _outcome_text(run, failed)
        longest_ns = max(later.start_ns - earlier.start_ns for earlier, later in pairwise(run))
        return Sighting(
            key=owner,
            endpoint_id=owner.endpoint_id,
            started_ns=run[0].start_ns,
            seen_ns=run[-1].last_open_ns,
            hold_ns=int(max(10 * SECOND_NS, self.settings.hold_periods * longest_ns)),
            severity=Severity.CRITICAL if sure else Severity.WARNING,
            confidence=0.9 if sure else 0.7,
            summary=(
                f"{printable(comm_text(owner.comm)) or 'an unknown process'} tries {view.label(owner.endpoint_id)} "
                f"{_rhythm_text(found)}, {len(run)} times so far, {outcome}"
            ),
            advice=_ADVICE,
            evidence={
                "attempts": len(run),
                "rhythm": found.rhythm.value,
                "period_s": round(period_s, 4),
                "factor": round(found.factor, 2),
                "step_s": round(found.step_ns / SECOND_NS, 3),
                "likely_client": likely,
                "new_process_each_time": new_process,
                "outcomes": _tally(run),
            }
            | (_REFUSED_CAUSES if failed and any(visit.established for visit in run) else {}),
            suspects=view.suspect(client),
        )


def rhythm(starts_ns: NDArray[np.int64], stray: float) -> Cadence:
    """The rhythm of attempts: even if nearly all distances are within `stray` of their median, else what fits the latest."""
    latest = starts_ns[-_RHYTHM_ATTEMPTS:]
    distances = np.diff(latest)
    median = float(np.median(distances))
    near = np.abs(distances - median) <= stray * median
    if near.mean() >= _NEARLY_ALL:
        return Cadence(
            Rhythm.FIXED, len(starts_ns), round(median), deviation=float(np.abs(distances[near] - median).max() / median)
        )
    found = latest_cadence(starts_ns)
    slow = found.rhythm is Rhythm.EXPONENTIAL and found.factor < _GROWTH_MIN
    slow |= found.rhythm is Rhythm.LINEAR and found.step_ns < found.period_ns / 4
    return Cadence(Rhythm.NONE, found.attempts, found.period_ns) if slow else found


def _only_asks(visit: Visit) -> bool:
    """Whether a visit was no more than a look: nothing was pushed, and no configuration or layer was fetched after it."""
    return len(visit.exchanges) <= _LOOK_MAX and all(acked <= ERROR_MAX_BYTES for acked, _ in visit.exchanges)


def _same_requests(one: Visit, other: Visit) -> bool:
    """Whether two visits made requests of the same sizes, as for the same image."""
    sizes, others = (sorted(acked for acked, _ in visit.exchanges) for visit in (one, other))
    return len(sizes) == len(others) and all(map(same_request, sizes, others))


def _run(visits: list[Visit], only: tuple[Outcome, ...] | None) -> list[Visit]:
    """The latest visits in a row that brought nothing; with `only` those among all visits that came to nothing but this."""
    if only is not None:
        return [visit for visit in visits if visit.outcome in only]
    run: list[Visit] = []
    for visit in reversed(visits):
        if visit.received_max > ERROR_MAX_BYTES or visit.outcome is Outcome.UNKNOWN:
            break
        run.insert(0, visit)
    return run


def _downloads_elsewhere(view: View, client: Client, since_ns: int, pids: frozenset[int] = frozenset()) -> bool:
    """Whether the same owner (or one of these processes of its) downloaded something from another endpoint since then."""
    return any(
        visit.received_max > ERROR_MAX_BYTES and visit.start_ns >= since_ns and (not pids or visit.pid in pids)
        for other in view.perhaps_elsewhere(client)
        for visit in other.visits
    )


def _pids(run: list[Visit], family: Family) -> frozenset[int]:
    """The processes of a run, where they are told apart."""
    return frozenset(visit.pid for visit in run) if family.one_shot else frozenset()


def _tally(run: list[Visit]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for visit in run:
        name = visit.outcome.name.lower() if visit.outcome is not None else "open"
        counts[name] = counts.get(name, 0) + 1
    return counts


def _outcome_text(run: list[Visit], failed: bool) -> str:
    if not failed:
        return "and never downloads anything"
    reasons = np.sum([visit.reasons for visit in run], axis=0)
    common = REASON_NAMES[int(np.argmax(reasons))]
    if all(visit.outcome is Outcome.FAILED for visit in run):
        return f"and fails each time ({common})"
    return "and never gets what it asks for"


def _rhythm_text(found: Cadence) -> str:
    period_s = found.period_ns / SECOND_NS
    if found.rhythm is Rhythm.FIXED:
        return f"every {period_s:.3g} s"
    if found.rhythm is Rhythm.LINEAR:
        return f"after {period_s:.3g} s, then {found.step_ns / SECOND_NS:.3g} s later each time"
    return f"after {period_s:.3g} s, then {found.factor:.2g} times later each time"


def likely_client(found: Cadence, family: Family, new_process: bool) -> dict[str, Any]:
    """Who tries like that, as far as rhythm and process tell, and why.

    Sources: kubelet imageBackOffPeriod 10 s doubling to 300 s; swarmkit's default restart delay 5 s; moby's layer retries 5,
    10, 15, 20 s; containers/image 2, 4, 8, 16 s.
    """
    period_s = found.period_ns / SECOND_NS
    if found.rhythm is Rhythm.EXPONENTIAL:
        if period_s >= 7:
            return {"name": "kubelet", "why": "distances that double from 10 s"}
        return {"name": "containers/image", "why": "distances that double from 2 s"}
    if found.rhythm is Rhythm.LINEAR:
        return {"name": "dockerd", "why": "layers are tried again 5 s later each time"}
    if new_process and not family.engine:
        return {"name": "shell loop", "why": "a new process each time, at an even distance"}
    if family.name == "dockerd":
        why = "Swarm's default delay is 5 s" if 4 <= period_s <= 7 else "an even distance, as of a service that is restarted"
        return {"name": "Swarm", "why": why}
    if 250 <= period_s <= 350:
        return {"name": "kubelet", "why": "its longest back-off is 300 s"}
    return {"name": family.name, "why": "an even distance, one process"}
