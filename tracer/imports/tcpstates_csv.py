"""The lines of `tcpstates -s` (bcc): comma-separated, and not escaped. Pure.

    [TIME,] [TIME(s),] SKADDR,C-PID,C-COMM,IP,LADDR,LPORT,RADDR,RPORT,OLDSTATE,NEWSTATE,MS

C-COMM may hold commas and quotes; a line is read from both ends, as that of columns is.
"""

from __future__ import annotations

import re

from tracer.imports.readings import PASSED, Reading, aside
from tracer.imports.tcpstates import MS, PID, PORT, SINCE, SKADDR, STATE, TIME, transition

_LINE = re.compile(
    rb"(?:%b,)?(?:%b,)?%b,%b,(?P<comm>.*),[46],(?P<laddr>[^,\s]+),(?P<lport>%b),(?P<raddr>[^,\s]+),(?P<rport>%b),"
    rb"(?P<old>%b),(?P<new>%b),(?P<ms>%b)\s*" % (TIME, SINCE, SKADDR, PID, PORT, PORT, STATE, STATE, MS),
    re.DOTALL,
)
_HEADING = re.compile(rb"(?:TIME[^,]*,)*SKADDR,(?:C-)?PID,.*")


class TcpstatesCsv:
    """See above."""

    def parse(self, line: bytes) -> Reading:
        """What a line says."""
        found = _LINE.fullmatch(line)
        if found is None:
            return PASSED if _HEADING.fullmatch(line) else aside(line)
        return transition(found, found["comm"])
