"""evidence: `rate-limit`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from tracer.clients import Family
from tracer.findings import Severity
from tracer.roles import Role
from tracer.rules.outcomes import ERROR_MAX_BYTES, PING_MIN_BYTES, TERSE_MAX_BYTES, Outcome, judged_until, same_request, same_size
from tracer.rules.rule import SECOND_NS, Answer, Over, Rule, Sighting
from tracer.rules.thresholds import Thresholds, threshold
from tracer.rules.tokens import has_token_server, refused_token
from tracer.rules.view import View
from tracer.text import bytes_text
from tracer.visits import Client, Visit

_ADVICE = (
    "stop what repeats the request (see the suspects); log in, so that the limit of the account counts and not that of the "
    "address; or pull through a mirror. Everybody behind this address shares its limit."
)


_NAMELESS = 0.9
"""What is left of the confidence where the client was not seen, but those that are known there are of one kind."""


@dataclass(frozen=True)
class RateLimitThresholds(Thresholds):
    """Numbers of the rule `rate-limit`."""

    attempts_min: int = threshold(3, 3, 32, "equal answers to one process, at growing or even distances")
    pause_min_s: float = threshold(0.9, 0.1, 600, "shortest first pause between them")
    factor_min: float = threshold(1.7, 1.1, 10, "least growth of a pause over the one before")
    factor_max: float = threshold(3.5, 1.1, 20, "largest growth of a pause over the one before")
    burst_min: int = threshold(4, 2, 64, "equal short answers within one visit of a client that repeats at once")
    follow_s: float = threshold(2.0, 0.5, 60, "going on to another endpoint within this is no rate limit, but a fall-through")
    hold_s: float = threshold(90, 1, 3600, "over when nothing more was seen for so long")

    def problems(self) -> list[tuple[tuple[str, ...], str]]:
        """See `Thresholds`."""
        below = self.factor_max < self.factor_min
        return [(("factor_max", "factor_min"), "factor_max is below factor_min")] if below else []


class RateLimit(Rule[RateLimitThresholds]):
    """A registry refuses requests because there were too many of them.

    Finds: one process of a program built on containers/image (skopeo, podman, CRI-O) that gets the same short answer again
        and again, at distances that double (after a 429) or are even (Retry-After); a burst of the same short answer
        (containerd); or requests that are answered with much less than the same client's same requests ever were, with no
        download behind them.
    Matters: pulls fail until the window of the limit has passed; containers/image says so only after 30 to 240 s.
    Needs: payload bytes of connections that end; the growing distances need three attempts, the comparison two earlier answers.
    Parameters: attempts_min, pause_min_s, factor_min, factor_max, burst_min, follow_s, hold_s.
    Cannot tell apart: a 429 from another refusal of the same size, where neither the distances nor a token server tell;
        `causes` in the evidence names what remains. A 429 on a connection that is kept and used again leaves no trace in TCP.
    """

    id: ClassVar[str] = "rate-limit"
    Settings = RateLimitThresholds
    needs = ("bytes_received", "bytes_acked")

    def judge(self, view: View) -> Iterable[Answer]:
        """See `Rule`."""
        for client, visit in view.judged:
            if view.role(client.owner.endpoint_id) is not Role.AUTH:
                yield from self._judge_client(view, client, visit)

    def _judge_client(self, view: View, client: Client, latest: Visit) -> Iterator[Answer]:
        visits = judged_until(client, latest)
        family = view.family(client)
        for found in (self._backoff(visits, family), self._burst(latest, family), self._shrunk(view, client, visits)):
            if found is not None:
                yield self._sighting(view, client, *found)
                return
        lately = visits[-self.settings.attempts_min :]
        if latest.received_max > ERROR_MAX_BYTES and not any(
            visit.shrunk or visit.outcome is Outcome.REFUSED for visit in lately
        ):
            yield Over(client.owner, latest.last_end_ns, f"{bytes_text(latest.received_max)} were downloaded")

    def _backoff(self, visits: list[Visit], family: Family) -> tuple[Visit, float, str, dict[str, Any]] | None:
        if not family.backs_off:
            return None  # three polls by chance have distances that grow, too
        last = visits[-self.settings.attempts_min :]
        if len(last) < self.settings.attempts_min:
            return None
        answer = _common(last)
        if answer is None or any(visit.received_max > ERROR_MAX_BYTES for visit in last[1:]):
            return None
        pauses = [later.start_ns - earlier.last_open_ns for earlier, later in pairwise(last)]
        if pauses[0] < self.settings.pause_min_s * SECOND_NS:
            return None
        factors = [later / earlier for earlier, later in pairwise(pauses)]
        shown = [round(pause / SECOND_NS, 3) for pause in pauses]
        evidence = {"answer_bytes": answer[1], "request_bytes": answer[0], "pauses_s": shown, "pid": last[-1].pid}
        if all(self.settings.factor_min <= factor <= self.settings.factor_max for factor in factors):
            causes = {"rate-limit": 0.92, "other-refusal": 0.08}
            said = f"one process got the same {answer[1]} bytes {len(last)} times, at growing distances"
            return last[0], causes["rate-limit"], said, evidence | {"causes": causes}
        if all(0.9 <= factor <= 1.1 for factor in factors):
            causes = {"rate-limit": 0.85, "other-refusal": 0.15}
            said = f"one process got the same {answer[1]} bytes {len(last)} times, {shown[-1]:g} s apart, as after Retry-After"
            return last[0], causes["rate-limit"], said, evidence | {"causes": causes}
        return None

    def _burst(self, visit: Visit, family: Family) -> tuple[Visit, float, str, dict[str, Any]] | None:
        if not family.bursts or (visit.pid >= 0 and not visit.one_process):
            return None
        nothing_else = visit.received_max <= ERROR_MAX_BYTES
        counts: dict[tuple[int, int], int] = {}
        for acked, received in visit.exchanges:
            if received > TERSE_MAX_BYTES and not nothing_else:
                continue  # small layers may be as large as one another
            known = next((other for other in counts if same_size(received, other[1]) and same_request(acked, other[0])), None)
            counts[known or (acked, received)] = counts.get(known or (acked, received), 0) + 1
        if not counts or max(counts.values()) < self.settings.burst_min:
            return None
        (request, answer), count = max(counts.items(), key=lambda item: item[1])
        if answer > TERSE_MAX_BYTES and (count <= self.settings.burst_min or len(visit.exchanges) > count + 1):
            return None  # under TLS small layers look like that; with them come other requests
        said = f"one process got the same {answer} bytes {count} times at once; {family.name} repeats 408 and 429 like that"
        causes = {"rate-limit": 0.8, "other-refusal": 0.2}
        evidence = {"answer_bytes": answer, "request_bytes": request, "times": count, "pid": visit.pid, "causes": causes}
        return visit, causes["rate-limit"], said, evidence

    def _shrunk(self, view: View, client: Client, visits: list[Visit]) -> tuple[Visit, float, str, dict[str, Any]] | None:
        latest = visits[-1]
        if latest.outcome is not Outcome.REFUSED and not latest.shrunk:
            return None
        row = 1
        for earlier in reversed(visits[:-1]):
            if earlier.outcome is not Outcome.REFUSED:
                break
            row += 1
        if self._went_on(view, client, latest) or refused_token(view, client, latest):
            return None
        if latest.outcome is not Outcome.REFUSED and has_token_server(view, client):
            return None  # in the middle of a pull: see token-expiry
        answer_bytes = min((received for _, received in latest.shrunk or latest.exchanges), default=0)
        plain = answer_bytes < PING_MIN_BYTES  # no registry says so little; a 404 or 401 with its reason is longer
        puller = view.family(client).puller
        if row < self.settings.attempts_min and not (puller and answer_bytes and (plain or _collapsed(latest))):
            return None
        likely = (0.6 if row < self.settings.attempts_min else 0.7) if plain else 0.5
        rest = 1 - likely
        causes = {"rate-limit": likely, "not-found": round(rest * (0.1 if plain else 0.4), 2)}
        causes |= {"server-error": round(rest * 0.4, 2), "token-expiry": round(rest * 0.2, 2)}
        first = visits[-row] if latest.outcome is Outcome.REFUSED else latest
        answer = min(latest.shrunk, key=lambda exchange: exchange[1]) if latest.shrunk else latest.exchanges[-1]
        said = f"requests that used to get more got {answer[1]} bytes" + (f", {row} visits in a row" if row > 1 else "")
        evidence = {"answer_bytes": answer[1], "request_bytes": answer[0], "attempts": row, "pid": latest.pid, "causes": causes}
        return first, likely, said, evidence

    def _went_on(self, view: View, client: Client, visit: Visit) -> bool:
        """Whether the owner opened connections to another endpoint right after."""
        until_ns = visit.last_open_ns + int(self.settings.follow_s * SECOND_NS)
        return any(
            visit.start_ns < other_visit.start_ns <= until_ns
            for other in view.perhaps_elsewhere(client)
            if view.role(other.owner.endpoint_id) is not Role.AUTH
            for other_visit in other.visits
        )

    def _sighting(
        self, view: View, client: Client, first: Visit, confidence: float, said: str, evidence: dict[str, Any]
    ) -> Sighting:
        latest = client.visits[-1]
        evidence |= {"client_known": bool(client.owner.comm)}
        if not client.owner.comm:
            confidence = round(confidence * _NAMELESS, 2)
            evidence |= {"causes": {name: round(share * _NAMELESS, 2) for name, share in evidence["causes"].items()}}
        return Sighting(
            key=client.owner,
            endpoint_id=client.owner.endpoint_id,
            started_ns=first.start_ns,
            seen_ns=max(latest.last_end_ns, latest.last_open_ns),
            hold_ns=int(self.settings.hold_s * SECOND_NS),
            severity=Severity.CRITICAL if confidence >= 0.7 else Severity.WARNING,
            confidence=confidence,
            summary=f"{view.label(client.owner.endpoint_id)} refuses requests, {_sureness(confidence)} for their number: {said}",
            advice=_ADVICE,
            evidence=evidence,
            suspects=view.suspects(client.owner.endpoint_id),
            absence="attempts" in evidence,  # that nothing larger came, where all else is seen
        )


def _sureness(confidence: float) -> str:
    return "probably" if confidence >= 0.7 else "perhaps"


def _collapsed(visit: Visit) -> bool:
    """Whether different requests, one of which used to get more, were all answered with the same few bytes."""
    if visit.outcome is not Outcome.REFUSED or len(visit.exchanges) < 2:
        return False
    first = visit.exchanges[0]
    different = any(not same_request(acked, first[0]) for acked, _ in visit.exchanges)
    return different and all(same_size(received, first[1]) for _, received in visit.exchanges)


def _common(visits: list[Visit]) -> tuple[int, int] | None:
    """An exchange that all visits of one process have in common and that was no download."""
    if len({visit.pid for visit in visits}) > 1 or visits[-1].pid < 0 or not all(visit.one_process for visit in visits):
        return None
    for acked, received in visits[-1].exchanges:
        if received > ERROR_MAX_BYTES:
            continue
        if all(
            any(same_request(acked, other[0]) and same_size(received, other[1]) for other in visit.exchanges)
            for visit in visits[:-1]
        ):
            return acked, received
    return None
