"""The picture: verdict and timeline as one PNG, for a ticket."""

from __future__ import annotations

import textwrap

from tracer.pages.charts import Spec, timeline
from tracer.pages.content import Content
from tracer.pages.figures import Figures
from tracer.verdict import tone_of

_PLOT_PX, _SCALE = 715, 2
"""With axes and legends about 800 wide; twice that in the file, so that it stays sharp."""
_HEADLINE_LETTERS, _LINE_LETTERS = 68, 112
_LINES_MAX, _UNSEEN_LINES, _HEADLINES = 12, 3, 3
"""What is longer is in the page and in the text."""
_COLOURS = {"fine": "#00664A", "unsure": "#1A1C1F", "notice": "#00527F", "warning": "#7A5200", "critical": "#A63D00"}


def picture(content: Content, figures: Figures | None) -> bytes:
    """The PNG of a report; without figures, the verdict alone."""
    import vl_convert

    return vl_convert.vegalite_to_png(picture_spec(content, figures), scale=_SCALE, allowed_base_urls=[])


def picture_spec(content: Content, figures: Figures | None) -> Spec:
    """The same before it is drawn."""
    title = _title(content)
    spec = timeline(figures, _PLOT_PX, title) if figures else _words_alone(title)
    spec["background"] = "white"
    spec["padding"] = 16
    return spec


def _title(content: Content) -> Spec:
    """Headline, sentence, since when, how sure, who, what to do; what was not seen; where it is from."""
    verdict = content.verdict
    parts = [verdict.sentence, *(f"{heading}: {text}" for heading, text in verdict.parts())]
    lines = [line for part in parts for line in textwrap.wrap(part, _LINE_LETTERS)]
    if len(lines) > _LINES_MAX:
        lines = [*lines[: _LINES_MAX - 1], "(more in the page and the text)"]
    if content.unseen:
        first, more = content.unseen[0], len(content.unseen) - 1
        lines += textwrap.wrap(f"Not seen: {first}{f' And {more} more.' if more else ''}", _LINE_LETTERS)[:_UNSEEN_LINES]
    lines += textwrap.wrap(f"{content.title} · {content.subtitle}" if content.title else content.subtitle, _LINE_LETTERS)
    return {
        "text": textwrap.wrap(verdict.headline, _HEADLINE_LETTERS)[:_HEADLINES],
        "subtitle": lines,
        "anchor": "start",
        "fontSize": 20,
        "color": _COLOURS[tone_of(verdict)],
        "subtitleFontSize": 13,
        "subtitleColor": "#1A1C1F",
        "subtitleLineHeight": 18,
        "subtitlePadding": 8,
        "offset": 16,
    }


def _words_alone(title: Spec) -> Spec:
    """A picture of a trace in which nothing happened."""
    import altair as alt

    return {
        "$schema": alt.SCHEMA_URL,
        "title": title,
        "data": {"values": [{"text": "There is nothing to draw: no connection to a registry was seen."}]},
        "width": _PLOT_PX,
        "height": 60,
        "mark": {"type": "text", "fontSize": 14},
        "encoding": {"text": {"field": "text", "type": "nominal"}},
        "config": {"view": {"stroke": None}, "font": "sans-serif"},
    }
