"""The pictures of the README show what the program shows."""

from __future__ import annotations

import html
import re

from tests.pictures import DOCS, LIVE, REPORT, live_svg, report_svg


def texts(svg: str) -> list[str]:
    """What is written in a picture."""
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def test_the_live_view_of_the_readme_is_the_one_of_its_replay() -> None:
    made = live_svg(*LIVE)
    assert texts((DOCS / "live.svg").read_text("utf-8")) == texts(made)
    assert any("mirror-failure" in text for text in texts(made))
    assert made == live_svg(*LIVE)


def test_a_picture_fetches_nothing() -> None:
    assert "url(http" not in live_svg(*LIVE)
    assert 'url("http' not in (DOCS / "live.svg").read_text("utf-8")


def test_the_report_of_the_readme_is_the_one_of_its_replay() -> None:
    """Places of letters depend on fonts, what is written does not."""
    assert texts((DOCS / "report.svg").read_text("utf-8")) == texts(report_svg(REPORT))
    assert any("rate-limit" in text for text in texts(report_svg(REPORT)))


def test_the_report_fetches_nothing() -> None:
    assert "http" not in (DOCS / "report.svg").read_text("utf-8").replace("http://www.w3.org/", "")
