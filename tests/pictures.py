"""The pictures of the README, out of replays: `python -m tests.pictures` rewrites them, the same on every machine."""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

import vl_convert
from rich.console import Console

from tests.live import ROOT
from tests.replays import REPLAYS, trace_of
from tests.standing import up_to
from tracer.analysis import Analysis
from tracer.captures import open_trace
from tracer.commands.reading import collect
from tracer.pages.content import content_of
from tracer.pages.figures import figures_of
from tracer.pages.picture import picture_spec
from tracer.pages.span import span_of
from tracer.rules.settings import RuleSettings
from tracer.screen.controls import Controls
from tracer.screen.frame import frame
from tracer.screen.gauges import Meter
from tracer.screen.journal import Journal
from tracer.screen.moments import Moments
from tracer.screen.picture import take_picture
from tracer.screen.status import Session

DOCS = ROOT / "docs"


def live_svg(trace_path: Path, span_s: float, width: int, height: int) -> str:
    """The live view of a replay, so many seconds after its first event, as it would be drawn had it been there all the time."""
    trace = open_trace(trace_path)
    header = trace.header
    analysis = Analysis(header.source, header.resolution_ns, header.endpoints, RuleSettings(), header.roles())
    meter, journal = Meter(), Journal()
    try:
        for batch in up_to(trace.batches(), span_s):
            progress = analysis.feed(batch)
            meter.ended(progress.ended)
            journal.add(batch, progress.ended, analysis, "")
            meter.note(analysis, analysis.reached_ns)
    finally:
        trace.close()
    now_ns = analysis.reached_ns
    picture = take_picture(analysis, meter, journal, Moments(header.clock, analysis.first_ns), now_ns, "")
    session = Session(False, picture.headline, now_ns, now_ns - analysis.first_ns)
    console = Console(file=io.StringIO(), record=True, width=width, height=height, force_terminal=True, color_system="truecolor")
    for line in frame(picture, session, Controls(), width, height):
        console.print(line, soft_wrap=True)
    svg = console.export_svg(title=f"regtrace replay {trace_path.parent.name}", unique_id="live")
    return _FONTS.sub("", svg)


_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Fonts that whoever looks would fetch from somewhere; theirs will do."""
LIVE = (trace_of(REPLAYS / "lab-dockerd-mirror-503"), 21.5, 100, 22)
"""Which trace, up to when (s), and the terminal's columns and lines."""


REPORT = trace_of(REPLAYS / "lab-loop-429")


def report_svg(trace_path: Path) -> str:
    """What `report --format png` draws, as lines instead of dots: a tenth of the bytes."""
    options = argparse.Namespace(rules=None, config=None, benign=False)
    collected = collect(options, trace_path)
    span = span_of(collected)
    assert span is not None
    content = content_of(collected, span, trace_path.name, f"regtrace report {trace_path.parent.name}", ())
    return vl_convert.vegalite_to_svg(picture_spec(content, figures_of(collected, span)), allowed_base_urls=[])


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    for name, svg in (("live", live_svg(*LIVE)), ("report", report_svg(REPORT))):
        (DOCS / f"{name}.svg").write_text(svg, "utf-8")
        print(f"rewrote docs/{name}.svg")


if __name__ == "__main__":
    main()
