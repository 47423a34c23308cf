"""What the tests share: the kernel's permission, and a way to make a skip a failure."""

from __future__ import annotations

import os
import signal

import pytest

from tracer.source import choose_source, probe_host

REQUIRE = "REGTRACE_REQUIRE_EBPF"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # tests in the background of a script: processes they start must hear it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def skip_or_fail(reason: str) -> None:
    """Skip with the reason; with REGTRACE_REQUIRE_EBPF=1 fail instead, so that CI can't lose these tests unnoticed."""
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1, but {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def ebpf_reason() -> str | None:
    """Why eBPF can't be used here; None if it can."""
    choice = choose_source(probe_host(), "ebpf")
    return None if choice.source else f"{choice.why}; {choice.remedy}"


@pytest.fixture(autouse=True)
def _needs_ebpf(request: pytest.FixtureRequest) -> None:
    """Tests marked `ebpf` run against the real kernel or say why not."""
    if request.node.get_closest_marker("ebpf"):
        reason = request.getfixturevalue("ebpf_reason")
        if reason:
            skip_or_fail(reason)
