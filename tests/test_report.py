"""`regtrace report` as its users meet it: what is written where, in which form, and what it says if it can't."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.live import PATIENCE_S
from tests.made_captures import HOSTILE, OPTIONS, capture, days, hostile_capture, instant, mixed, nothing, short, storm
from tests.stories import LABELS, backing_off
from tests.test_captures import write
from tests.test_main import ROOT, Run, assert_one_line, environment
from tracer.commands.reading import collect
from tracer.events import EventBatch, Events
from tracer.header import FORMAT_VERSION, TraceHeader
from tracer.pages.charts import spread, timeline
from tracer.pages.content import content_of
from tracer.pages.figures import Figures, figures_of
from tracer.pages.page import json_in_page, page_text, script_safe
from tracer.pages.span import span_of
from tracer.pages.tallies import sum_known

MAKERS: list[Callable[[], Events]] = [mixed, instant, short, days]
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What is in a page: elements, attributes, scripts, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        else:
            self.texts.append(data)

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def trace_path(tmp_path: Path) -> Path:
    return capture(tmp_path / "incident.arrows", backing_off())


def figures(path: Path) -> Figures:
    made = collect(OPTIONS, path)
    span = span_of(made)
    assert span is not None
    return figures_of(made, span)


def page_of(path: Path) -> str:
    made = collect(OPTIONS, path)
    span = span_of(made)
    drawn = figures_of(made, span) if span is not None and len(made.rows) else None
    return page_text(content_of(made, span, path.name, None), drawn)


class TestFiles:
    def test_without_a_name_it_is_the_trace_s_in_this_directory(
        self,
        run: Run,
        trace_path: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        here = tmp_path / "here"
        here.mkdir()
        monkeypatch.chdir(here)
        done = run("report", str(trace_path))
        assert (done.returncode, done.stdout) == (0, "")
        assert re.fullmatch(r"regtrace: wrote incident\.html \(\d+kB\)\n", done.stderr)
        assert stat.S_IMODE((here / "incident.html").stat().st_mode) == 0o600

    @pytest.mark.parametrize(
        ("name", "options", "begins"),
        [
            ("a.html", (), b"<!doctype html>"),
            ("a.HTM", (), b"<!doctype html>"),
            ("a.png", (), b"\x89PNG"),
            ("a.md", (), b"# "),
            ("a.txt", ("--format", "md"), b"# "),
            ("a.png", ("--format", "html"), b"<!doctype html>"),
        ],
    )
    def test_the_ending_tells_the_form_unless_it_is_said(
        self,
        run: Run,
        trace_path: Path,
        tmp_path: Path,
        name: str,
        options: tuple[str, ...],
        begins: bytes,
    ) -> None:
        assert run("report", str(trace_path), "-o", str(tmp_path / name), *options).returncode == 0
        assert (tmp_path / name).read_bytes().startswith(begins)

    def test_an_existing_file_stays_unless_forced(self, run: Run, trace_path: Path, tmp_path: Path) -> None:
        target = tmp_path / "a.md"
        target.write_text("precious")
        done = run("report", str(trace_path), "-o", str(target))
        assert done.returncode == 1
        assert "--force" in done.stderr
        assert target.read_text() == "precious"
        assert run("report", str(trace_path), "-o", str(target), "--force").returncode == 0
        assert target.read_text().startswith("# ")

    def test_a_link_is_never_followed(self, run: Run, trace_path: Path, tmp_path: Path) -> None:
        (tmp_path / "a.md").symlink_to(tmp_path / "elsewhere")
        assert run("report", str(trace_path), "-o", str(tmp_path / "a.md")).returncode == 1
        assert not (tmp_path / "elsewhere").exists()

    def test_standard_output_takes_any_form(self, trace_path: Path) -> None:
        command = [sys.executable, "-m", "tracer", "report", str(trace_path), "-o", "-", "--format", "png"]
        done = subprocess.run(command, capture_output=True, cwd=ROOT, env=environment(), timeout=PATIENCE_S)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout[:4] == b"\x89PNG"

    def test_a_full_disk_leaves_no_half_file(self, trace_path: Path, tmp_path: Path) -> None:
        """Played by a limit on the size of files."""
        command = [sys.executable, "-m", "tracer", "report", str(trace_path), "-o", str(tmp_path / "a.md")]
        limited = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *command]
        done = subprocess.run(limited, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=PATIENCE_S)
        assert done.returncode == 1
        assert_one_line(done.stderr)
        assert "a.md can't be written: File too large" in done.stderr
        assert not (tmp_path / "a.md").exists()

    def test_an_interruption_leaves_no_file(
        self, trace_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
    ) -> None:
        def interrupted(*_: object) -> str:
            raise KeyboardInterrupt

        monkeypatch.setattr("tracer.pages.markdown.markdown_text", interrupted)
        assert run("report", str(trace_path), "-o", str(tmp_path / "a.md")).returncode == 130
        assert not (tmp_path / "a.md").exists()

    def test_a_capture_of_a_later_format_is_refused(self, trace_path: Path, tmp_path: Path, run: Run) -> None:
        later = tmp_path / "later.jsonl"
        now = capture(tmp_path / "now.jsonl", mixed()).read_text()
        assert f'"format": {FORMAT_VERSION}' in now
        later.write_text(now.replace(f'"format": {FORMAT_VERSION}', '"format": 99'))
        done = run("report", str(later), "-o", str(tmp_path / "a.md"))
        assert done.returncode == 1
        assert_one_line(done.stderr)
        assert "99" in done.stderr

    def test_loss_and_a_polled_source_are_said(self, tmp_path: Path, run: Run) -> None:
        events = mixed()
        early_ns = np.full(len(events), 30_000_000, np.uint64)
        last_ns = int(events["ts_ns"].max())
        batch = EventBatch(events, "polled", 50_000_000, 7, last_ns - 10, last_ns, early_ns=early_ns, opened=9, counted=12)
        write(tmp_path / "t.arrows", [batch], TraceHeader("polled", "a test", 50_000_000, endpoints=dict(LABELS)))
        assert run("report", str(tmp_path / "t.arrows"), "-o", str(tmp_path / "a.md")).returncode == 0
        text = (tmp_path / "a.md").read_text()
        for said in (
            "7 events lost between +",
            "Times are exact to 50ms only",
            "9 of 12 opened connections seen",
            "no wall clock",
        ):
            assert said in text
        assert run("report", str(tmp_path / "t.arrows"), "-o", str(tmp_path / "a.html")).returncode == 0

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (("nowhere.arrows", "-o", "a.html"), 1, "nowhere.arrows"),
            (("{trace}", "-o", "a.pdf"), 2, ".html, .png, .md, or --format"),
            (("{trace}", "-o", "a"), 2, "--format"),
            (("{trace}", "-o", "no/such/folder/a.md"), 1, "no/such/folder"),
            (("{trace}", "-o", "a.md", "--config", "nowhere.toml"), 2, "nowhere.toml"),
            (("{trace}", "--format", "pdf"), 2, "pdf"),
            ((), 2, "TRACE"),
        ],
    )
    def test_what_can_not_be_is_said_in_one_line(
        self,
        run: Run,
        trace_path: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[str, ...],
        code: int,
        said: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        done = run("report", *(each.format(trace=trace_path) for each in arguments))
        assert (done.returncode, done.stdout) == (code, "")
        assert_one_line(done.stderr)
        assert said in done.stderr

    @pytest.mark.parametrize("library", ["altair", "vl_convert", "jinja2"])
    def test_a_missing_library_is_named_with_what_brings_it(
        self,
        run: Run,
        trace_path: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        library: str,
    ) -> None:
        monkeypatch.setitem(sys.modules, library, None)
        done = run("report", str(trace_path), "-o", str(tmp_path / "a.html"))
        assert done.returncode == 1
        assert "charts need a library" in done.stderr
        assert library in done.stderr
        assert "pip install 'regtrace[report]', or in a checkout: .venv/bin/pip install '.[report]'" in done.stderr
        assert run("report", str(trace_path), "-o", str(tmp_path / "a.md")).returncode == 0

    def test_a_truncated_capture_is_reported_as_far_as_it_goes(self, run: Run, trace_path: Path, tmp_path: Path) -> None:
        whole = trace_path.read_bytes()
        trace_path.write_bytes(whole[: len(whole) - 20])
        assert run("report", str(trace_path), "-o", str(tmp_path / "a.md")).returncode == 0
        assert "The trace is incomplete" in (tmp_path / "a.md").read_text()


class TestHostile:
    """What a review tried."""

    def test_a_report_never_takes_the_place_of_its_capture(self, run: Run, trace_path: Path) -> None:
        before = trace_path.read_bytes()
        done = run("report", str(trace_path), "-o", str(trace_path), "--format", "md", "--force")
        assert (done.returncode, trace_path.read_bytes()) == (2, before)
        assert "is the capture itself" in done.stderr

    def test_bytes_of_a_crafted_capture_do_not_wrap(self) -> None:
        assert sum_known(np.array([2**62, 2**62, 2**62, -1])) == 3 * 2**62
        assert sum_known(np.array([-1, -1])) == -1


class TestPage:
    def test_it_says_verdict_since_who_and_what_to_do(self, trace_path: Path) -> None:
        page = Page(page_of(trace_path))
        assert f"CRITICAL: rate-limit at {LABELS[1]}" in page.text
        for said in ("Since", "How sure", "skopeo[77]", "What was lost or not seen", "regtrace replay incident.arrows"):
            assert said in page.text

    def test_it_names_nothing_that_a_browser_would_load(self, trace_path: Path) -> None:
        page = Page(page_of(trace_path))
        assert not page.tags & {"link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "svg", "a"}
        assert not [
            attributes for _, attributes in page.elements if {"src", "href", "srcset", "style", "onclick"} & set(attributes)
        ]

    def test_its_policy_allows_its_own_scripts_alone(self, trace_path: Path) -> None:
        page = Page(page_of(trace_path))
        policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
        assert policy is not None
        allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
        assert allowed["default-src"] == "'none'"
        types = [attributes.get("type") for tag, attributes in page.elements if tag == "script"]
        code = [script for script, kind in zip(page.scripts, types, strict=True) if kind is None]
        hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in code]
        assert allowed["script-src"].split() == hashes
        assert "unsafe-eval" not in policy

    def test_it_can_be_read_without_seeing(self, trace_path: Path) -> None:
        page = Page(page_of(trace_path))
        assert ("html", {"lang": "en"}) in page.elements
        assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
        assert all(attributes.get("aria-label") for _, attributes in page.elements if attributes.get("class") == "chart")
        assert next(tag for tag, _ in page.elements if tag in ("h1", "h2")) == "h1"

    def test_hostile_names_stay_text(self, tmp_path: Path) -> None:
        text = page_of(hostile_capture(tmp_path / "t.arrows"))
        page = Page(text)
        assert not page.tags & {"img", "b", "a"}
        assert len(page.scripts) == 4
        for script in page.scripts[:2]:
            assert json.loads(script)["datasets"]
            assert not set("<>&\u2028\u2029\x1b\u202e") & set(script)
        assert "<img src=x onerror=alert(1)>" in page.text
        assert "\x1b" not in text
        assert "\u202e" not in text

    @pytest.mark.slow
    @pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
    def test_a_typical_page_is_far_below_two_megabytes(self, make: Callable[[], Events], tmp_path: Path) -> None:
        assert len(page_of(capture(tmp_path / "t.arrows", make())).encode()) < 1_300_000

    def test_more_connections_than_can_be_drawn_do_not_make_it_larger(self, tmp_path: Path) -> None:
        assert len(page_of(capture(tmp_path / "t.arrows", storm())).encode()) < 1_400_000

    def test_an_empty_trace_is_a_page_without_charts(self, tmp_path: Path) -> None:
        page = Page(page_of(nothing(tmp_path / "t.arrows")))
        assert "there was nothing to judge" in page.text
        assert "There is nothing to draw" in page.text
        assert page.scripts == []

    def test_a_script_that_would_end_its_element_is_refused(self) -> None:
        with pytest.raises(ValueError, match="can't stand in a page"):
            script_safe("x = '</SCRIPT>'")

    @pytest.mark.parametrize("text", HOSTILE)
    def test_data_are_the_same_when_read_again(self, text: str) -> None:
        made = json_in_page({text: [text]})
        assert json.loads(made) == {text: [text]}
        assert "<" not in made


def constants(value: object) -> set[str]:
    """Every text of a specification but those of its datasets."""
    if isinstance(value, dict):
        return {text for key, each in value.items() if key != "datasets" for text in {key} | constants(each)}
    if isinstance(value, list):
        return {text for each in value for text in constants(each)}
    return {value} if isinstance(value, str) else set()


class TestCharts:
    def test_no_text_of_a_trace_is_in_a_specification_but_as_data(self, tmp_path: Path) -> None:
        hostile = figures(hostile_capture(tmp_path / "h.arrows"))
        for spec in (timeline(hostile), spread(hostile)):
            assert not [text for text in constants(spec) for bad in HOSTILE if bad[:12] in text]
            assert spec["datasets"]

    @pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
    def test_they_compile_without_a_warning(
        self, make: Callable[[], Events], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        import vl_convert

        drawn = figures(capture(tmp_path / "t.arrows", make()))
        for spec in (timeline(drawn), spread(drawn)):
            assert vl_convert.vegalite_to_vega(spec, show_warnings=True)["marks"]
        assert capfd.readouterr().err == ""

    def test_without_a_clock_the_axis_has_no_time_of_day(self, tmp_path: Path) -> None:
        spec = timeline(figures(capture(tmp_path / "t.arrows", mixed(), clock=None)))
        assert "utc" not in constants(spec)
        assert "s since the beginning" in constants(spec)

    def test_findings_without_a_band_are_said_to_be_there(self, tmp_path: Path) -> None:
        drawn = figures(capture(tmp_path / "t.arrows", mixed()))
        assert len(drawn.datasets["findings"]) == 12 < drawn.episodes
        assert f"Findings: the gravest 12 of {drawn.episodes}" in constants(timeline(drawn))

    def test_nothing_can_be_loaded_by_them(self, trace_path: Path) -> None:
        assert not constants(timeline(figures(trace_path))) & {"url", "href", "image"}


class TestPicture:
    @pytest.mark.slow
    @pytest.mark.parametrize("make", [*MAKERS, backing_off], ids=lambda make: make.__name__)
    def test_it_is_about_1600_wide(self, make: Callable[[], Events], tmp_path: Path, run: Run) -> None:
        path = capture(tmp_path / "t.arrows", make())
        assert run("report", str(path), "-o", str(tmp_path / "a.png")).returncode == 0
        width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
        assert 1450 <= width <= 1750
        assert 300 <= height <= 4000

    def test_of_nothing_it_is_a_sentence(self, tmp_path: Path, run: Run) -> None:
        nothing(tmp_path / "t.arrows")
        assert run("report", str(tmp_path / "t.arrows"), "-o", str(tmp_path / "a.png")).returncode == 0
        assert (tmp_path / "a.png").stat().st_size > 5_000
