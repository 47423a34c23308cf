"""`python -m tests.bench`: every figure of the design in one run, printed as a table."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tests.bench.live import measure_cpu, measure_loss, measure_throughput
from tests.bench.load import Servers, cpu_ticks
from tests.bench.machine import facts, tracefs
from tests.bench.polling import PollingPlan, measure_polling
from tests.bench.replay import measure_replay
from tests.bench.screen import measure_screen
from tests.bench.startup import measure_startup
from tests.bench.table import Row, table
from tracer.source import EBPF, choose_source, probe_host

_IDLE_S = 1.0
_PARTS = ("polling", "kernel", "throughput", "loss", "cpu", "replay", "screen", "startup")
_WITHOUT_EBPF = {"polling", "replay", "screen"}


@dataclass(frozen=True)
class _Plan:
    """How much of what. Times in s."""

    kernel: tuple[int, float]  # rounds, seconds of load per program
    throughput: tuple[int, float]
    loss: tuple[int, float]
    cpu: tuple[int, float]
    replay: tuple[int, int]  # transitions, rounds
    screen: tuple[int, float]
    startup: int  # rounds
    polling: PollingPlan


_DEFAULT = _Plan(
    kernel=(5, 0.8), throughput=(5, 1.2), loss=(3, 3.0), cpu=(3, 3.0), replay=(1_200_000, 5), screen=(3, 8.0),
    startup=3,
    polling=PollingPlan(
        pictures=((1_000, 11), (10_000, 7), (100_000, 5)), watching=(1_000, 10_000), windows=(2, 10.0), recall=(3, 2.0)
    ),
)  # fmt: skip
_QUICK = _Plan(
    kernel=(1, 0.5), throughput=(1, 0.7), loss=(1, 1.0), cpu=(1, 1.0), replay=(1_000_000, 1), screen=(1, 4.0),
    startup=1,
    polling=PollingPlan(pictures=((1_000, 3), (10_000, 3)), watching=(1_000,), windows=(1, 3.0), recall=(1, 1.0)),
)  # fmt: skip


def _say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def _others() -> str:
    """What other processes use of the machine while the benchmark does nothing."""
    before = cpu_ticks()
    time.sleep(_IDLE_S)
    after = cpu_ticks()
    busy = 1 - (after[1] - before[1]) / max(1, after[0] - before[0])
    return f"{busy:.0%} of all cores"


def _live_rows(plan: _Plan, parts: list[str]) -> list[Row]:
    from tests.bench.kernel_cost import measure_kernel_cost

    rows: list[Row] = []
    with tracefs() as trouble, Servers(max(2, min(os.cpu_count() or 2, 4))) as servers:
        if trouble:
            _say(f"{trouble}; the other tools will not start")
        steps: dict[str, Callable[[], list[Row]]] = {
            "kernel": lambda: measure_kernel_cost(servers.ports, *plan.kernel, _say),
            "throughput": lambda: measure_throughput(servers, *plan.throughput, _say),
            "loss": lambda: measure_loss(servers, *plan.loss, _say),
            "cpu": lambda: measure_cpu(servers, *plan.cpu, _say),
            "startup": lambda: measure_startup(servers, plan.startup, _say),
        }
        for part, step in steps.items():
            if part in parts:
                rows += step()
    return rows


def _measure(plan: _Plan, parts: list[str]) -> tuple[list[Row], str | None]:
    """(rows, why the live ones are missing)."""
    rows: list[Row] = []
    reason = None
    if "polling" in parts:  # first, as the loads of the others leave TIME_WAIT, which would be in every picture
        rows += measure_polling(plan.polling, _say)
    if set(parts) - _WITHOUT_EBPF:
        choice = choose_source(probe_host(), EBPF)
        if choice.source is None or os.geteuid() != 0:
            reason = choice.why if choice.source is None else "not root"
            _say(f"{reason}; only the rows of polling, replay and the screen are measured")
        else:
            rows += _live_rows(plan, parts)
    if "replay" in parts:
        rows += measure_replay(*plan.replay, _say)
    if "screen" in parts:
        rows += measure_screen(*plan.screen, _say)
    return rows, reason


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
    raise KeyboardInterrupt


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of everything, under two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw numbers there")
    parser.add_argument("--only", action="append", choices=_PARTS, help="some parts only; repeatable")
    options = parser.parse_args()
    for number in _SIGNALS:
        signal.signal(number, _interrupted)
    about = facts() | {"others at the start": _others()}
    started_s = time.monotonic()
    try:
        rows, reason = _measure(_QUICK if options.quick else _DEFAULT, options.only or list(_PARTS))
    except KeyboardInterrupt:
        _say("interrupted; everything it started has been ended")
        return 130
    about["others at the end"] = _others()
    about["took"] = f"{time.monotonic() - started_s:.0f} s"
    print("\n".join(f"- {name}: {value}" for name, value in about.items()))
    if reason:
        print(f"- live rows missing: {reason}")
    print(f"\n{table(rows)}")
    if options.json:
        options.json.write_text(json.dumps({"facts": about, "rows": [row.raw() for row in rows]}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
