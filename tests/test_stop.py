"""tracer.pipeline.Stop: signals end a trace, except those that somebody wants to be ignored."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tracer.pipeline import Stop

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """By default at first, and afterwards as they were."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_is_noted_and_its_handler_comes_back(number: signal.Signals) -> None:
    with Stop().on_signals() as stop:
        signal.raise_signal(number)
    assert stop.signal is number
    assert [signal.getsignal(each) for each in ENDING] == [signal.SIG_DFL] * 3


@pytest.mark.parametrize("number", ENDING)
def test_an_ignored_signal_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with Stop().on_signals() as stop:
        signal.raise_signal(number)
        assert stop.signal is None
        assert signal.getsignal(number) is signal.SIG_IGN
    assert signal.getsignal(number) is signal.SIG_IGN


def test_another_signal_does_not_make_an_ignored_interrupt_heard() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Stop().on_signals():
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_second_interrupt_interrupts() -> None:
    with Stop().on_signals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_a_handler_that_is_no_python_code_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has None for a handler that C code had set before it began."""
    real, first = signal.signal, [None]

    def of_c(number: int, handler: Any) -> Any:
        before = real(number, handler)
        return first.pop() if number == signal.SIGHUP and first else before

    monkeypatch.setattr(signal, "signal", of_c)
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGHUP else signal.SIG_DFL)
    with Stop().on_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
    assert stop.signal is signal.SIGHUP
