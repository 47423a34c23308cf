"""Frames: never larger than the terminal, what matters first, and nothing hostile in them."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from tests.stories import LABELS, OTHER, REGISTRY, Story, at
from tests.traces import SECOND, START_NS
from tracer.analysis import Analysis
from tracer.events import EventBatch, no_events
from tracer.exactness import UNTIMED_NS
from tracer.facts import AddressFact, EndpointFact
from tracer.findings import Finding, FindingState, Severity, Suspect
from tracer.owners.owner import OwnerDetail
from tracer.screen.controls import SORTS, Controls
from tracer.screen.frame import frame
from tracer.screen.gauges import Meter
from tracer.screen.journal import Journal
from tracer.screen.moments import Moments
from tracer.screen.picture import Picture, take_picture
from tracer.screen.status import Session, status_line

HOSTILE = "\x1b[2J[red]\u202e evil\r\n\x9b日本語\u200d[/red]e\u0301"
_NOW_S = 30.0


def busy_analysis(labels: dict[int, str]) -> tuple[Analysis, Meter, Journal]:
    story = Story()
    for number in range(60):
        kind = ("local", "peer", "refused")[number % 3]
        story.connection(number * 0.4, kind, comm=b"\x1b]0;x\x07[b]", pid=number % 3, endpoint=1 + number % 2, received=5000)
    for number in range(12):
        story.connection(20 + number, comm=b"dockerd", keep=1 + number % 3)
    analysis, meter, journal = Analysis("ebpf", 1, labels), Meter(), Journal()
    owner = OwnerDetail(pid=1, container=HOSTILE, runtime="docker")
    batch = EventBatch(story.events(), "ebpf", 1, facts=(owner,))
    progress = analysis.feed(batch)
    meter.ended(progress.ended)
    journal.add(batch, progress.ended, analysis, "")
    journal.remark(at(4), "LOST 3 events")
    return analysis, meter, journal


def finding(number: int, severity: Severity = Severity.WARNING, text: str = "what is wrong") -> Finding:
    suspect = Suspect(5, text.encode()[:15], -1, 10.0, 0.5, container=text, unit=text)
    evidence = {"causes": {"rate-limit": 0.9, "other-refusal": 0.1}}
    parts = (f"rule-{number}", number, FindingState.OPEN, severity, 0.9, REGISTRY, at(3), at(5), -1, at(5))
    return Finding(*parts, f"{text}, again and again", evidence, (suspect,) * 4, f"{text}: do this " * 12)


def busy_picture(findings: int = 0, labels: dict[int, str] | None = None, text: str = "what is wrong") -> Picture:
    analysis, meter, journal = busy_analysis(labels or LABELS)
    picture = take_picture(analysis, meter, journal, Moments(None, START_NS), at(_NOW_S), "")
    found = tuple(finding(number, Severity(number % 3), text) for number in range(findings))
    return replace(picture, headline=replace(picture.headline, findings=found))


def session_of(picture: Picture, paused_s: float = -1) -> Session:
    return Session(True, picture.headline, picture.now_ns, 90 * SECOND, int(paused_s * SECOND) if paused_s >= 0 else -1)


def drawn(
    picture: Picture, width: int = 80, height: int = 24, controls: Controls | None = None, paused_s: float = -1
) -> list[str]:
    lines = frame(picture, session_of(picture, paused_s), controls or Controls(), width, height)
    return [line.plain.rstrip() for line in lines]


_PLAIN, _HOSTILE_LABELS = LABELS, {REGISTRY: HOSTILE, OTHER: "[bold]x[/bold]:443"}
PICTURES = [
    busy_picture(),
    busy_picture(1),
    busy_picture(9),
    busy_picture(3, _HOSTILE_LABELS, HOSTILE),
    take_picture(Analysis("ebpf", 1, {}), Meter(), Journal(), Moments(None), -1, ""),
]
CONTROLS = st.builds(
    Controls,
    paused=st.booleans(),
    sort=st.sampled_from(SORTS),
    filter=st.sampled_from(["", "日本", "x" * 64]),
    typed=st.sampled_from([None, "", HOSTILE]),
    transitions=st.booleans(),
    help=st.booleans(),
)


@given(st.sampled_from(PICTURES), CONTROLS, st.integers(1, 220), st.integers(1, 60))
def test_a_frame_is_never_larger_than_the_terminal_and_says_nothing_unprintable(
    picture: Picture, controls: Controls, width: int, height: int
) -> None:
    lines = frame(picture, session_of(picture, 5 if controls.paused else -1), controls, width, height)
    assert 1 <= len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    assert all(line.plain.isprintable() for line in lines)


@given(st.integers(1, 220), st.integers(4, 60))
def test_a_critical_finding_is_always_there(width: int, height: int) -> None:
    lines = drawn(busy_picture(9), width, height)
    assert lines[1].startswith("CRITICAL rule-2"[: max(width - 1, 0)])


def test_findings_come_most_severe_first_and_too_many_are_counted() -> None:
    lines = drawn(busy_picture(9))
    heads = [line.split("  ")[0] for line in lines if line.startswith(("CRITICAL", "WARNING", "NOTICE"))]
    assert heads == ["CRITICAL rule-2", "CRITICAL rule-5", "CRITICAL rule-8", "WARNING rule-1", "WARNING rule-4"]
    assert "and 4 more findings" in lines


def test_a_finding_says_how_sure_since_when_who_and_what_to_do() -> None:
    text = "\n".join(drawn(busy_picture(1), 160, 40))
    assert "NOTICE rule-0  90% sure, since +3s, for 27s, at registry.example:443" in text
    assert "who  what is wrong[5] in what is wron 50% of the connections, 10 a minute" in text
    assert "; and 2 more" in text
    assert "do   what is wrong: do this" in text
    assert "may  be rate-limit 90%, other-refusal 10%" in text


def test_advice_is_cut_where_it_is_too_long() -> None:
    text = drawn(busy_picture(1), 60, 40)
    advice = [number for number, line in enumerate(text) if line.startswith("  do ")]
    assert text[advice[0] + 2].endswith("…")
    assert text[advice[0] + 3].startswith("ENDPOINT")


def test_what_matters_least_is_left_out_first() -> None:
    tall, short, shorter = (drawn(busy_picture(1), 80, height) for height in (40, 16, 5))
    assert [any(word in line for line in tall) for word in ("ENDPOINT ", "OPEN", "LAST ENDED")] == [True] * 3
    assert any("ENDPOINT " in line for line in short)
    assert not any("LAST ENDED" in line for line in short)
    assert shorter[1].startswith("NOTICE")


def test_the_status_line_has_loss_coverage_resolution_and_time() -> None:
    line = drawn(busy_picture(), 100)[0]
    assert line.startswith("ebpf  exact to 1ns  lost 0  every transition seen  +30s  ran 1m30s")


@pytest.mark.parametrize("width", [12, 20, 40, 80, 200])
def test_loss_and_pause_are_in_the_status_line_at_every_width(width: int) -> None:
    picture = busy_picture()
    picture = replace(picture, headline=replace(picture.headline, lost=7))
    line = status_line(picture, session_of(picture, 3), Controls(paused=True), width).plain
    assert line.startswith("P")
    assert "LOST 7" in line
    assert len(line) <= width


def test_a_polled_source_says_its_share_and_a_replay_that_it_is_one() -> None:
    picture = busy_picture()
    headline = replace(picture.headline, source="polled", counted=10, opened=4, resolution_ns=50_000_000)
    session = Session(False, headline, picture.now_ns, 0)
    line = status_line(picture, session, Controls(), 120).plain
    assert line.startswith("replay of polled  exact to 50ms  lost 0  seen 40% of opened")


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("lost", [0, 123_456])
def test_how_to_get_help_is_said_at_80_columns(live: bool, lost: int) -> None:
    picture = busy_picture()
    headline = replace(picture.headline, lost=lost, loss_known=False, gaps=3, abstained=(("reset", "x"), ("churn", "y")))
    session = Session(live, headline, picture.now_ns, 90 * SECOND, 5 * SECOND)
    assert "? help" in status_line(picture, session, Controls(), 80).plain


def test_a_source_without_times_says_so() -> None:
    picture = busy_picture()
    headline = replace(picture.headline, resolution_ns=UNTIMED_NS)
    assert "no times, durations only" in status_line(picture, Session(True, headline, 0, 0), Controls(), 120).plain


def test_unknown_coverage_and_names_without_address_are_said() -> None:
    picture = busy_picture()
    headline = replace(picture.headline, gaps=3, unresolved=("a:443", "b:443"))
    line = status_line(picture, Session(True, headline, 0, 0), Controls(), 140).plain
    assert "coverage unknown, 3 with gaps" in line
    assert "UNSEEN 2 without an address" in line


def test_findings_that_are_new_since_the_pause_are_counted() -> None:
    picture = busy_picture(1)
    session = replace(session_of(picture, 2), headline=busy_picture(3).headline)
    assert "NEW FINDINGS 2" in status_line(picture, session, Controls(paused=True), 120).plain


def test_a_wide_terminal_has_everything_of_an_endpoint_in_one_line() -> None:
    lines = drawn(busy_picture(), 200)
    (row,) = (line for line in lines if line.startswith("upstream.example:443"))
    assert "█" in row
    header = lines[1]
    titles = (
        "ROLE",
        "ESTAB",
        "SYN",
        "CLSG",
        "OPEN/s",
        "CLOSE/s",
        "p50",
        "p99",
        "IN/s",
        "OUT/s",
        "RETR/s",
        "PEER",
        "LOCAL",
        "FAIL",
    )
    assert [title in header for title in titles] == [True] * len(titles)


def test_columns_do_not_move_when_numbers_grow() -> None:
    picture = busy_picture()
    larger = replace(picture, gauges=replace(picture.gauges, opens_per_s=picture.gauges.opens_per_s * 1000))
    before, after = drawn(picture), drawn(larger)
    at_end = [line.index("OPEN/s") + len("OPEN/s") for line in (before[1], after[1])]
    assert at_end[0] == at_end[1]
    assert [line[at_end[0]] for line in (before[3], after[3])] == [" ", " "]


def test_a_connection_whose_end_may_be_lost_has_no_state() -> None:
    analysis, meter, journal = busy_analysis(LABELS)
    last_ns = int(analysis.now_ns)
    analysis.feed(EventBatch(no_events(), "ebpf", 1, 5, last_ns + 1, last_ns + 2))
    picture = take_picture(analysis, meter, journal, Moments(None, START_NS), at(_NOW_S), "")
    assert {line.split()[2] for line in drawn(picture, 80, 60) if line.startswith("dockerd[")} <= {
        "unknown",
        "dockerd[812]",
        "LIFE",
    }
    assert any(" unknown " in line for line in drawn(picture, 80, 60))


def test_without_colour_words_carry_all() -> None:
    picture = busy_picture(3)
    lines = frame(picture, session_of(picture), Controls(), 80, 24)

    def printed(**options: object) -> str:
        console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor", **options)  # type: ignore[arg-type]
        with console.capture() as capture:
            for line in lines:
                console.print(line, soft_wrap=True)
        return capture.get()

    assert Text.from_ansi(printed()).plain == Text.from_ansi(printed(no_color=True)).plain
    assert "\x1b[1;31m" in printed()
    assert "31m" not in printed(no_color=True)


def test_gauges_of_nothing_known_are_dashes() -> None:
    analysis = Analysis("ebpf", 1, LABELS)
    picture = take_picture(analysis, Meter(), Journal(), Moments(None), -1, "")
    lines = drawn(picture)
    assert lines[0].startswith("ebpf  exact to 1ns  lost 0  every transition seen  -")
    assert [line.split()[4:] for line in lines[2:]] == [["-"] * 5] * len(LABELS)
    assert not np.isfinite(picture.gauges.opens_per_s).any()


def test_an_endpoint_without_an_address_is_said_to_be_unseen() -> None:
    analysis = Analysis("ebpf", 1, {})
    facts = (EndpointFact(1, "a:443"), EndpointFact(2, "b:443"))
    analysis.feed(EventBatch(no_events(), "ebpf", 1, facts=(*facts, AddressFact(2, "192.0.2.1", True, START_NS))))
    picture = take_picture(analysis, Meter(), Journal(), Moments(None), -1, "")
    rows = [line.split()[:3] for line in drawn(picture)[2:]]
    assert rows == [["UNSEEN", "a:443", "-"], ["b:443", "0", "0"]]


def test_rules_that_cannot_judge_are_counted() -> None:
    picture = busy_picture()
    headline = replace(picture.headline, abstained=(("stalled", "no idle_ms"), ("stalled", "no more"), ("reset", "x")))
    assert "2 rules can't judge" in status_line(picture, Session(True, headline, 0, 0), Controls(), 120).plain
