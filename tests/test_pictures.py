"""The pictures of the README show what the program shows."""

from __future__ import annotations

import html
import re

from tests.pictures import DOCS, README, live_svg


def texts(svg: str) -> list[str]:
    """What is written in a picture."""
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def test_the_live_view_of_the_readme_is_the_one_of_its_replay() -> None:
    made = live_svg(*README)
    assert texts((DOCS / "live.svg").read_text("utf-8")) == texts(made)
    assert any("mirror-failure" in text for text in texts(made))
    assert made == live_svg(*README)


def test_a_picture_fetches_nothing() -> None:
    assert "url(http" not in live_svg(*README)
    assert 'url("http' not in (DOCS / "live.svg").read_text("utf-8")
