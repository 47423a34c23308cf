"""The rhythm in which rules are asked. Pure."""

from __future__ import annotations

TICK_NS = 500_000_000
"""A cell of event time. Half a second: sooner than anybody reads, and rarely enough that a dense trace is judged in arrays."""
SCAN_NS = 1_000_000_000
"""Open connections are looked at this often, as samples of them come."""
