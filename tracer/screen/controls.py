"""What whoever looks has chosen: paused or not, an order, a filter. Pure: a key makes new controls of old ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tracer.screen.keys import BACKSPACE, CLEAR, ENTER, ESCAPE

SORTS = ("name", "open", "opens/s", "failures")
_FILTER_LENGTH_MAX = 64


@dataclass(frozen=True)
class Controls:
    """What is chosen.

    Attributes:
        paused: the picture stands; data go on.
        sort: of endpoints, one of SORTS; all but the name with the largest first.
        filter: text that endpoint, owner or container contain; "" none.
        typed: the filter that is being typed; None while none is.
        transitions: the log shows transitions, not connections.
        help: the keys are explained.
        quit: it is enough.
    """

    paused: bool = False
    sort: str = SORTS[0]
    filter: str = ""
    typed: str | None = None
    transitions: bool = False
    help: bool = False
    quit: bool = False

    def press(self, key: str) -> Controls:
        """With one more key pressed; keys that mean nothing change nothing."""
        return self._press(key) if self.typed is None else self._type(key, self.typed)

    def _press(self, key: str) -> Controls:
        if key in ("p", " "):
            return replace(self, paused=not self.paused)
        if key == "s":
            return replace(self, sort=SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)])
        if key in ("f", "/"):
            return replace(self, typed=self.filter)
        if key == "t":
            return replace(self, transitions=not self.transitions)
        if key in ("?", "h"):
            return replace(self, help=not self.help)
        if key == "q":
            return replace(self, quit=True)
        if key == ESCAPE:  # one thing at a time, what covers the picture first
            return replace(self, help=False) if self.help else replace(self, filter="")
        return self

    def _type(self, key: str, typed: str) -> Controls:
        if key == ENTER:
            return replace(self, typed=None, filter=typed.strip())
        if key == ESCAPE:
            return replace(self, typed=None, filter="")
        if key == BACKSPACE:
            return replace(self, typed=typed[:-1])
        if key == CLEAR:
            return replace(self, typed="")
        return replace(self, typed=(typed + key)[:_FILTER_LENGTH_MAX]) if len(key) == 1 else self
