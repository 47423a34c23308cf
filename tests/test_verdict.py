"""The verdict on a whole trace: the gravest first, nothing left out, and honest where nothing was found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.made_captures import CLOCK, HOSTILE, collected, mixed
from tests.stories import LABELS, backing_off
from tests.test_findings_lines import ONE
from tracer.collected.collector import Collected
from tracer.events import no_events
from tracer.findings import FindingState, Severity, Suspect
from tracer.summary import Loss
from tracer.verdict import since_text, sure_text, tone_of, unseen, verdict_of, who_text


@pytest.fixture
def quiet(tmp_path: Path) -> Collected:
    """A trace in which nothing was found."""
    return replace(collected(tmp_path / "t.arrows", mixed()), findings=())


def test_a_refusal_is_named_with_since_who_and_what_to_do(tmp_path: Path) -> None:
    verdict = verdict_of(collected(tmp_path / "t.arrows", backing_off()))
    assert verdict.headline == f"CRITICAL: rate-limit at {LABELS[1]}"
    assert [heading for heading, _ in verdict.parts()] == ["Since", "How sure", "Who", "What to do"]
    assert "skopeo[77]" in verdict.who


def test_the_gravest_comes_first_and_all_are_there(quiet: Collected) -> None:
    notice = replace(ONE, episode=1, severity=Severity.NOTICE, rule="slow-consumer")
    warning = replace(ONE, episode=2, severity=Severity.WARNING, rule="churn")
    over = replace(ONE, episode=3, state=FindingState.CLOSED, ended_ns=9_000)
    verdict = verdict_of(replace(quiet, findings=(notice, warning, over, ONE)))
    assert verdict.findings == (ONE, over, warning, notice)
    assert verdict.headline.endswith(", and 3 more")


def test_recovery_alone_is_no_fault(quiet: Collected) -> None:
    verdict = verdict_of(replace(quiet, findings=(replace(ONE, rule="recovered", severity=Severity.NOTICE),)))
    assert (verdict.severity, verdict.headline) == (None, "Nothing found")
    assert len(verdict.findings) == len(verdict.extras) == 1


def test_what_is_no_fault_is_no_verdict(quiet: Collected) -> None:
    verdict = verdict_of(replace(quiet, findings=(replace(ONE, benign=True, severity=Severity.NOTICE),)))
    assert (verdict.severity, verdict.headline, len(verdict.findings)) == (None, "Nothing found", 1)


def test_a_headline_says_what_is_over(quiet: Collected) -> None:
    over = replace(ONE, state=FindingState.CLOSED, ended_ns=9_000)
    assert verdict_of(replace(quiet, findings=(over,))).headline == f"CRITICAL: rate-limit at {LABELS[1]} (over)"


def test_nothing_found_is_fine_only_where_every_rule_could_judge(quiet: Collected) -> None:
    verdict = verdict_of(quiet)
    assert (verdict.headline, tone_of(verdict)) == ("Nothing found", "fine")
    assert verdict.sentence.endswith("every rule could judge. Not every failure shows in TCP; the README says which do not.")
    silent = verdict_of(replace(quiet, summary=replace(quiet.summary, abstained=(("reset", "sk_err is not known"),))))
    assert (silent.headline, tone_of(silent)) == ("Nothing found by the rules that could judge", "unsure")
    assert "1 rule could not judge (reset)" in silent.sentence


@pytest.mark.parametrize(
    "changes",
    [
        {"lost": 3},
        {"gaps": 1},
        {"loss_known": False},
        {"unresolved": ("nowhere.example:443",)},
        {"losses": (Loss(None, 1_000, 2_000),)},
        {"source": "polled", "opened": 9, "counted": 12},
        {"source": "polled"},
    ],
    ids=str,
)
def test_what_was_not_seen_may_be_wrong(quiet: Collected, changes: dict[str, object]) -> None:
    verdict = verdict_of(replace(quiet, summary=replace(quiet.summary, **changes)))  # type: ignore[arg-type]
    assert (verdict.headline, tone_of(verdict)) == ("Nothing found in what was seen", "unsure")
    assert verdict.sentence.endswith("as far as they were seen.")


def test_what_a_trace_lacks_at_its_end_was_not_seen_either(quiet: Collected) -> None:
    assert verdict_of(replace(quiet, truncated="it ends in a batch")).headline == "Nothing found in what was seen"


def test_where_most_rules_could_not_judge_nobody_can_say(quiet: Collected) -> None:
    half = quiet.rules // 2
    for count, headline in ((half, "Nothing found by the rules that could judge"), (half + 1, f"Can't say: {half + 1} rules")):
        abstained = tuple((f"rule-{number}", "no times") for number in range(count))
        verdict = verdict_of(replace(quiet, rules=2 * half, summary=replace(quiet.summary, abstained=abstained)))
        assert verdict.headline.startswith(headline)
        assert tone_of(verdict) == "unsure"


def test_an_empty_trace_had_nothing_to_judge(tmp_path: Path) -> None:
    verdict = verdict_of(collected(tmp_path / "t.arrows", no_events()))
    assert verdict.sentence == "The trace has no connection to a registry: there was nothing to judge."
    assert (verdict.headline, tone_of(verdict)) == ("Nothing to judge", "unsure")


def test_a_finding_that_is_over_says_until_when(quiet: Collected) -> None:
    over = replace(ONE, state=FindingState.CLOSED, started_ns=1_000_000_000, ended_ns=3_500_000_000)
    said = since_text(over, quiet)
    assert " until " in said
    assert said.endswith("(2.5s); over")


def test_sureness_names_what_else_it_may_be_and_how_much_was_seen() -> None:
    finding = replace(ONE, evidence={"causes": {"rate-limit": 0.9, "other-refusal": 0.1}, "coverage": 0.5})
    assert sure_text(finding) == "92% (may be: rate-limit 90%, other-refusal 10%); 50% of the connections were seen"


def test_a_suspect_without_a_name_is_somebody() -> None:
    assert who_text(Suspect(-1, b"", -1, None, 0.5)) == "somebody unknown: 50% of these connections"


class TestUnseen:
    def test_of_a_whole_trace_nothing_is_told(self, quiet: Collected) -> None:
        assert unseen(quiet) == ()

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"lost": 7, "losses": (Loss(7, 1_000, 2_000),)}, "7 events lost between"),
            ({"losses": (Loss(None, 1_000, 2_000),)}, "Nobody was looking between"),
            ({"gaps": 2}, "2 connections with missing transitions"),
            ({"source": "polled"}, "The source changed from ebpf to polled"),
            ({"resolution_ns": 50_000_000}, "Times are exact to 50ms only"),
            ({"opened": 9, "counted": 12}, "9 of 12 opened connections seen (75%)"),
            ({"unresolved": ("nowhere.example:443",)}, "No address is known of nowhere.example:443"),
            ({"abstained": (("reset", "no sk_err"),)}, "reset did not judge: no sk_err."),
            ({"inbound": 1}, "1 connection opened from outside"),
            ({"unknown_transitions": {("CLOSE", "LISTEN"): 2}}, "Unknown transition CLOSE to LISTEN, 2 times."),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_each_lack_is_a_sentence(self, quiet: Collected, changes: dict[str, object], told: str) -> None:
        found = unseen(replace(quiet, summary=replace(quiet.summary, **changes)))  # type: ignore[arg-type]
        assert any(sentence.startswith(told) for sentence in found), found

    def test_of_very_many_losses_the_rest_is_summed_up(self, quiet: Collected) -> None:
        losses = tuple(Loss(1, 1_000 * number, 1_000 * number + 5) for number in range(40))
        found = unseen(replace(quiet, summary=replace(quiet.summary, lost=40, losses=losses)))
        assert len(found) < 10
        assert "Events lost in 35 more intervals; 40 events in all." in found

    def test_truncation_comes_first(self, quiet: Collected) -> None:
        assert unseen(replace(quiet, truncated="it ends in a batch", header=replace(quiet.header, clock=None)))[0] == (
            "The trace is incomplete: it ends in a batch."
        )

    def test_a_trace_without_a_clock_says_so(self, quiet: Collected) -> None:
        assert any("no wall clock" in sentence for sentence in unseen(replace(quiet, header=replace(quiet.header, clock=None))))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_trace_says_is_safe_to_show(quiet: Collected, text: str) -> None:
    suspect = Suspect(1, text.encode()[:15], -1, 1.0, 1.0, text, text, text)
    finding = replace(ONE, summary=text, advice=text, suspects=(suspect,), evidence={"causes": {text: 1.0}})
    header = replace(quiet.header, clock=CLOCK, source=text)
    made = replace(quiet, findings=(finding,), endpoints={1: text}, truncated=text, header=header)
    verdict = verdict_of(made)
    for said in (verdict.headline, verdict.sentence, *(part for _, part in verdict.parts()), *unseen(made)):
        assert said.isprintable()
