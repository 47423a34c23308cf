"""The lifetimes query alone, in polars: `python lifetimes_polars.py FILE`. A JSON line says how long what took.

Connections are told apart as the tracer does, by socket and opening; then durations by endpoint, and their quantiles. No close
reasons, no times in states, no churn, no cadence, no open connections.
"""

from __future__ import annotations

import json
import sys
import time

SYN_SENT, CLOSE = 2, 7


def main(path: str) -> None:
    """Run the query once, and once more with everything warm."""
    started_s = time.perf_counter()
    import polars as pl

    imported_s = time.perf_counter() - started_s
    took_s = []
    count = 0
    for _ in range(2):
        started_s = time.perf_counter()
        opening = (pl.col("old_state") == CLOSE) & (pl.col("new_state") == SYN_SENT)
        found = (
            pl.read_ipc_stream(path, columns=["kind", "ts_ns", "skaddr", "endpoint_id", "old_state", "new_state"])
            .lazy()
            .filter(pl.col("kind") == 0)
            .with_columns(connection=opening.cast(pl.UInt32).cum_sum().over("skaddr"))
            .group_by("skaddr", "connection")
            .agg(
                pl.col("endpoint_id").first(),
                opened_ns=pl.col("ts_ns").first(),
                closed_ns=pl.col("ts_ns").last(),
                last_state=pl.col("new_state").last(),
            )
            .filter(pl.col("last_state") == CLOSE)
            .with_columns(lifetime_ns=pl.col("closed_ns") - pl.col("opened_ns"))
            .group_by("endpoint_id")
            .agg(
                pl.len().alias("connections"),
                *(pl.col("lifetime_ns").quantile(quantile, "nearest").alias(f"p{quantile:.0%}") for quantile in (0.5, 0.9, 0.99)),
            )
            .collect()
        )
        took_s.append(time.perf_counter() - started_s)
        count = int(found["connections"].sum())
    json.dump({"import_s": imported_s, "first_s": took_s[0], "warm_s": took_s[1], "connections": count}, sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
