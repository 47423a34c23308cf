"""The frame: a picture as lines that fit a terminal, what matters least left out first.

The order of importance is fixed: the status line, the findings, the endpoints, the open connections, the log. Each takes what
it needs of what those before it left; findings leave some lines to the endpoints where their heads have room.
"""

from __future__ import annotations

from rich.text import Text

from tracer.screen.connections import connection_lines
from tracer.screen.controls import Controls
from tracer.screen.endpoints import endpoint_lines
from tracer.screen.findings import SHOWN, finding_lines
from tracer.screen.gauges import RATE_S
from tracer.screen.log import log_lines
from tracer.screen.picture import Picture
from tracer.screen.status import Session, status_line
from tracer.screen.table import plain_line

_FINDING_SHARE = 0.55
_ONE_FINDING = 10
"""Lines that one takes with all that is said of it."""
_ENDPOINT_SHARE = 0.6
"""Of what findings leave, endpoints take no more while there is something to be said below them."""
_BELOW = 4
"""Lines worth having: titles and three rows."""

HELP = (
    "p, space  pause: the picture stands, the trace goes on",
    "s         order of endpoints: by name, open, opens/s, failures",
    "f, /      filter by endpoint, owner or container: type, then Enter; Esc: all",
    "t         the log shows transitions, or connections",
    "?         this help         q  quit, as Ctrl-C does",
    "",
    f"OPEN/s CLOSE/s IN/s OUT/s RETR/s  means of the last {RATE_S} seconds (or fewer,",
    "          at the start); bars: one a second, the highest is the most of the row",
    f"PEER LOCAL FAIL  who closed in these {RATE_S} s: the registry, this host, nobody",
    "          (refused, timed out, unreachable, given up)",
    "ESTAB SYN CLSG  open now: established, being opened, being closed",
    "p50 p99   lifetimes of all connections that ended since the start",
)


def frame(picture: Picture, session: Session, controls: Controls, width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` cells.

    Args:
        picture: what to show.
        session: what the status line says beside it.
        controls: order, filter, and what the log shows.
        width, height: of the terminal, in cells; at least 1 each.
    """
    lines = [status_line(picture, session, controls, width)]
    room = height - 1
    if room > 0 and picture.headline.findings:
        lines += finding_lines(picture, width, _for_findings(picture, room))
        room = height - len(lines)
    if controls.help:
        lines += [plain_line(line, width) for line in HELP]
        return lines[:height]
    below = bool(picture.open_matching or picture.pages.connections or picture.pages.remarks)
    endpoints = endpoint_lines(picture, controls, width, _for_endpoints(room, below))
    lines += endpoints
    room = height - len(lines)
    something_ended = bool(picture.pages.connections or picture.pages.remarks)
    lines += connection_lines(picture, width, room // 2 if something_ended and room >= 2 * _BELOW else room)
    return (lines + log_lines(picture, controls, width, height - len(lines)))[:height]


def _for_findings(picture: Picture, room: int) -> int:
    """About half, and what endpoints need not; at least a line for each finding, and one for how many more there are."""
    endpoints = min(2 + 2 * len(picture.gauges), _BELOW + 2)
    most = min(room - endpoints, max(int(room * _FINDING_SHARE), _ONE_FINDING))
    return max(most, min(room, len(picture.headline.findings), SHOWN + 1))


def _for_endpoints(room: int, below: bool) -> int:
    return max(int(room * _ENDPOINT_SHARE), room - 2 * _BELOW) if below and room >= 2 * _BELOW else room
