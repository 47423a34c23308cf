"""What a trace says about itself, whatever its format."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from tracer import __version__
from tracer.clock import ClockOffset
from tracer.roles import Role

ROLES, ORIGINS, RULES = "roles", "origins", "rules"
"""Names in `settings`: what endpoints are for, where they were learnt, and how rules were set."""
FORMAT_VERSION = 1
"""Of captures. A reader takes its own version only; fields may be added without a new one."""


@dataclass(frozen=True)
class TraceHeader:
    """What holds for a whole trace.

    Attributes:
        source: "ebpf", "polled" or "proc".
        why: why that source was chosen, in a sentence.
        resolution_ns: how exact times are.
        host, kernel: where it was taken; "" unknown.
        clock: boottime to wall clock; None unknown (a hand-written trace): then there are no wall-clock times.
        endpoints: label by endpoint id, as known at the start.
        version: of the regtrace that took it.
        settings: what influenced the recording, as text by name.
        loss_known: the source says what it lost; False: it may have lost events without a word, as imported tools do.
    """

    source: str
    why: str
    resolution_ns: int
    host: str = ""
    kernel: str = ""
    clock: ClockOffset | None = None
    endpoints: dict[int, str] = field(default_factory=dict)
    version: str = __version__
    settings: dict[str, str] = field(default_factory=dict)
    loss_known: bool = True

    def roles(self) -> dict[int, Role]:
        """What endpoints are for, by id, as the settings say; what can't be understood is left out."""
        try:
            said = json.loads(self.settings.get(ROLES, "{}"))
            return {int(number): Role(role) for number, role in said.items()}
        except (ValueError, AttributeError, RecursionError):
            return {}


def roles_text(roles: dict[int, Role]) -> str:
    """Roles for the settings of a header."""
    return json.dumps({str(number): role.value for number, role in sorted(roles.items())})


def origins_text(origins: dict[int, str]) -> str:
    """Where endpoints were learnt, by id, for the settings of a header."""
    return json.dumps({str(number): origin for number, origin in sorted(origins.items())})
