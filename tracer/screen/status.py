"""The status line: how well is seen, when, and what whoever looks has chosen. Always there, in one line."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from tracer.exactness import exactness_text
from tracer.screen.controls import Controls
from tracer.screen.gauges import RATE_S
from tracer.screen.numbers import span_text
from tracer.screen.picture import Picture
from tracer.screen.table import fitted
from tracer.summary import Summary
from tracer.text import printable

_SEPARATOR = "  "
_FILTER_SHOWN = 24


@dataclass(frozen=True)
class _Part:
    """Something that is said: its longest form first, then shorter ones; the last may be ""."""

    forms: tuple[str, ...]
    importance: int
    style: str = ""


@dataclass(frozen=True)
class Session:
    """What the status line says beside the picture.

    Attributes:
        live: it happens now; else it is a replay.
        headline: of now, even while the picture stands.
        now_ns: boottime: of now, or event time in a replay; -1 before the first event.
        ran_ns: how long it has been running; in a replay, in event time.
        paused_ns: how long the picture has been standing; -1: it is not.
    """

    live: bool
    headline: Summary
    now_ns: int
    ran_ns: int
    paused_ns: int = -1


def status_line(picture: Picture, session: Session, controls: Controls, width: int) -> Text:
    """What fits of it, the least important shortened and left out first."""
    parts = list(_parts(picture, session, controls))
    chosen = [0] * len(parts)
    order = sorted(range(len(parts)), key=lambda index: parts[index].importance)
    while _length(parts, chosen) > width:
        shrinking = next((index for index in order if chosen[index] < len(parts[index].forms) - 1), None)
        if shrinking is None:
            break
        chosen[shrinking] += 1
    line = Text(no_wrap=True, end="")
    for part, form in zip(parts, chosen, strict=True):
        text = part.forms[form]
        if text:
            line.append(_SEPARATOR if line else "")
            line.append(text, part.style or "bold")
    if line.cell_len > width:
        line = Text(fitted(line.plain, width), "bold", no_wrap=True, end="")
    return line


def _length(parts: list[_Part], chosen: list[int]) -> int:
    texts = [part.forms[form] for part, form in zip(parts, chosen, strict=True)]
    shown = [cell_len(text) for text in texts if text]
    return sum(shown) + len(_SEPARATOR) * (len(shown) - 1)


def _parts(picture: Picture, session: Session, controls: Controls) -> list[_Part]:
    headline, now = session.headline, picture.moments.text(session.now_ns)
    source, exact = printable(headline.source), exactness_text(headline.resolution_ns).removeprefix("times ")
    told = source if session.live else f"replay of {source}"
    parts = [
        _Part((told, source, ""), 7),
        _Part((exact, exact.replace("exact to ", "±"), ""), 3),
        _loss(headline),
        _coverage(headline),
        _Part((now, ""), 8),
        _Part((f"ran {span_text(session.ran_ns)}", ""), 1),
    ]
    if session.paused_ns >= 0:
        parts.insert(0, _Part((f"PAUSED {span_text(session.paused_ns)}", "PAUSED", "P"), 10, "bold reverse"))
        new = {each.episode for each in headline.findings} - {each.episode for each in picture.headline.findings}
        if new:
            parts.insert(1, _Part((f"NEW FINDINGS {len(new)}", f"NEW {len(new)}"), 9, "bold red"))
    if headline.unresolved:
        unseen = f"UNSEEN {len(headline.unresolved)}"
        parts.append(_Part((f"{unseen} without an address", unseen, ""), 5, "bold yellow"))
    abstaining = len({rule for rule, _ in headline.abstained})
    if abstaining:
        parts.append(_Part((f"{abstaining} rules can't judge", f"{abstaining} abstain", ""), 3))
    if controls.typed is not None:
        parts.append(_Part((f"filter: {_shown(controls.typed)}_", f"f: {_shown(controls.typed)}_"), 11, "bold reverse"))
    elif controls.filter:
        parts.append(_Part((f"filter: {_shown(controls.filter)}", f"f: {_shown(controls.filter)}", "f"), 8, "bold reverse"))
    parts.append(_Part((f"by {controls.sort}", ""), 2))
    parts += [_Part(("? help", ""), 6), _Part((f"rates: means of {RATE_S} s", ""), 0)]
    return parts


def _loss(headline: Summary) -> _Part:
    if headline.lost:
        return _Part((f"LOST {headline.lost}",), 9, "bold red")
    if not headline.loss_known:
        return _Part((headline.lost_text, "lost ?", ""), 5, "bold yellow")
    return _Part(("lost 0", ""), 5)


def _coverage(headline: Summary) -> _Part:
    if headline.counted:
        share = f"{headline.opened / headline.counted:.0%}"
        return _Part((f"seen {share} of opened", f"seen {share}", share, ""), 5)
    if headline.coverage == 1.0:
        return _Part(("every transition seen", "all seen", ""), 4)
    missing = f"{headline.gaps} with gaps" if headline.gaps else ""
    return _Part((f"coverage unknown, {missing}" if missing else "coverage unknown", "coverage ?", "cov ?", ""), 5, "bold yellow")


def _shown(text: str) -> str:
    """The end of what was typed."""
    text = printable(text)
    return text if len(text) <= _FILTER_SHOWN else "…" + text[-_FILTER_SHOWN:]
