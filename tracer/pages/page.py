"""The page: one HTML file that shows everything and loads nothing.

Texts are escaped by the template engine. The policy in its head allows no request at all, and only the two scripts whose
hashes it names; Vega's expressions are interpreted, so that not even they are compiled. Data stand in the page as JSON.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

from tracer.findings import Severity
from tracer.pages.charts import SPREAD, TIMELINE, spread, timeline
from tracer.pages.content import Content
from tracer.pages.figures import Figures
from tracer.verdict import tone_of

_ZOOM_HELP = (
    "Drag to move in time, turn the wheel with Ctrl or Alt held to zoom, double-click to see all again; point at a bar for its "
    "details."
)
_LANES_HELP = (
    "The handshake is thin, ESTABLISHED full, closing in between. Marks say how a connection ended that did not end by a FIN, or "
    "that is too short to be seen as a bar; what is very short is drawn wider than it is."
)
_SPREAD_CAPTION = (
    "How many connections lived, took to connect, and stayed in a state for how long; durations and counts are logarithmic."
)
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def page_text(content: Content, figures: Figures | None) -> str:
    """The whole page.

    Args:
        content: its words and tables.
        figures: what to draw; None: nothing happened.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=False, undefined=jinja2.StrictUndefined)
    scripts = [_vega(), _resource("page.js")] if figures else []
    verdict = content.verdict
    page = {
        "title": content.title,
        "subtitle": content.subtitle,
        "severity": tone_of(verdict),
        "headline": verdict.headline,
        "sentence": verdict.sentence,
        "parts": verdict.parts(),
        "unseen": content.unseen,
        "resolution": content.resolution,
        "charts": _charts(figures, content) if figures else [],
        "tables": content.tables,
        "about": content.about,
        "command": content.command,
        "version": content.version,
    }
    return environment.from_string(_resource("page.html")).render(
        page=page,
        css=_resource("page.css"),
        scripts=scripts,
        script_hashes=" ".join(map(_hash, scripts)) or "'none'",
        severities=[severity.text for severity in Severity],
    )


@cache
def _vega() -> str:
    """The libraries that draw, in one script."""
    import vl_convert

    return script_safe(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _charts(figures: Figures, content: Content) -> list[dict[str, Any]]:

    drawn = [
        {
            "name": "timeline",
            "heading": "What happened when",
            "caption": f"{figures.lanes_text} {_LANES_HELP}",
            "help": _ZOOM_HELP,
            "description": f"{TIMELINE} {content.verdict.headline}.",
            "spec": timeline(figures),
        }
    ]
    if figures.datasets["distributions"]:
        drawn.append(
            {
                "name": "spread",
                "heading": "How long it took",
                "caption": _SPREAD_CAPTION,
                "help": "Point at a bar for its numbers.",
                "description": SPREAD,
                "spec": spread(figures),
            }
        )
    return [chart | {"json": json_in_page(chart["spec"])} for chart in drawn]


def json_in_page(value: object) -> str:
    """JSON that may stand in a script element: nothing in it can end the element, or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def script_safe(script: str) -> str:
    """A library's script that may stand in a script element.

    Raises:
        ValueError: it holds what would end the element; that of no version that was tried did.
    """
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("the script can't stand in a page")
    return script


def _hash(script: str) -> str:
    """The source expression of Content Security Policy for an inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _resource(name: str) -> str:
    return resources.files("tracer.pages").joinpath(name).read_text("utf-8")
