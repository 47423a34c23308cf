"""The objects of `--json` and of `.jsonl` captures, one a line. Pure: arrays in, text out.

Field names, units and order are a contract that replays, dashboards and scripts rely on. Times are integer ns of boottime
(`*_ns`) and RFC 3339 (`*_at`); null is "unknown". Addresses of sockets are text, because 64-bit integers are not safe in
every JSON reader.
"""

from tracer.lines.connections import connection_lines
from tracer.lines.findings import finding_lines
from tracer.lines.stream import batch_lines, clock_line, endpoint_line, fact_lines, loss_line, source_line, start_line
from tracer.lines.summary import summary_line
from tracer.lines.transitions import transition_lines

__all__ = [
    "batch_lines",
    "clock_line",
    "connection_lines",
    "endpoint_line",
    "fact_lines",
    "finding_lines",
    "loss_line",
    "source_line",
    "start_line",
    "summary_line",
    "transition_lines",
]
