"""`regtrace report`: what a capture shows, as a page, a picture or a text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tracer.collected.collector import Collected
from tracer.commands.reading import collect
from tracer.commands.writing import created
from tracer.errors import EXIT_OK, MissingError, OutputError, UsageError
from tracer.files import refuse_existing, refuse_itself
from tracer.options import REPORT_FORMATS
from tracer.pages.content import Content, content_of
from tracer.pages.span import span_of
from tracer.text import bytes_text, printable

_SUFFIXES = {"html": "html", "htm": "html", "png": "png", "md": "md", "markdown": "md"}
_STDOUT = "-"


def run(options: argparse.Namespace) -> int:
    """Write a report on a capture."""
    path, form = _target(options)
    _check(path, form, options)
    collected = collect(options, options.trace)
    written = _made(collected, form, options)
    if path is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(written)
        sys.stdout.buffer.flush()
        return EXIT_OK
    with created(path, options.force) as file:
        file.write(written)
    sys.stderr.write(f"regtrace: wrote {printable(str(path))} ({bytes_text(len(written))})\n")
    return EXIT_OK


def _target(options: argparse.Namespace) -> tuple[Path | None, str]:
    """Where to write, None for standard output, and in which form.

    Raises:
        UsageError: nobody can tell the form.
    """
    wanted: Path | None = options.output
    if wanted is None:
        form = options.format or "html"
        return Path(f"{options.trace.stem or 'report'}.{form}"), form
    form = options.format or _SUFFIXES.get(wanted.suffix.removeprefix(".").lower())
    if str(wanted) == _STDOUT:
        return None, form or "html"
    if form is None:
        expected = ", ".join(REPORT_FORMATS)
        raise UsageError(
            f"{wanted}: its ending does not say what to write; choose one of .{expected.replace(', ', ', .')}, or --format"
        )
    return wanted, form


def _check(path: Path | None, form: str, options: argparse.Namespace) -> None:
    """See to what can be seen to before a long capture is read.

    Raises:
        OutputError: the file is there already, or its directory is not.
        MissingError: a library that charts need is not there.
        UsageError: a picture would go to a terminal.
    """
    if path is not None:
        refuse_itself(path, options.trace)
        refuse_existing(path, options.force)
    if path is not None and not path.parent.is_dir():
        raise OutputError(f"{path} can't be created: {path.parent} is no directory")
    if path is None and form == "png" and sys.stdout.isatty():
        raise UsageError("a terminal can't show a picture; name a file with -o")
    if form == "md":
        return
    try:
        import altair  # noqa: F401 - whether it is there
        import jinja2  # noqa: F401
        import vl_convert  # noqa: F401
    except Exception as error:  # a library that is there but does not fit its own libraries fails in its own way
        raise MissingError(
            f"charts need a library that can't be loaded ({error}): pip install 'regtrace[report]', "
            "or in a checkout: .venv/bin/pip install '.[report]'; --format md needs nothing more"
        ) from error


def _made(collected: Collected, form: str, options: argparse.Namespace) -> bytes:
    span = span_of(collected)
    content = content_of(collected, span, options.trace.name, options.title, _chosen(options))
    if form == "md":
        from tracer.pages.markdown import markdown_text

        return markdown_text(content, collected).encode()
    return _drawn(collected, content, form)


def _drawn(collected: Collected, content: Content, form: str) -> bytes:
    from tracer.pages.figures import figures_of

    span = content.span
    figures = figures_of(collected, span) if span is not None and len(collected.rows) else None
    if form == "png":
        from tracer.pages.picture import picture

        return picture(content, figures)
    from tracer.pages.page import page_text

    return page_text(content, figures).encode()


def _chosen(options: argparse.Namespace) -> tuple[str, ...]:
    """The options that chose the rules, as they were typed."""
    typed = ("--rules", options.rules), ("--config", options.config)
    given = [text for name, value in typed if value is not None for text in (name, str(value))]
    return (*given, *(["--benign"] if options.benign else []))
