"""Ways between looks: only what TCP does, and nobody blamed who did not close."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from fallback.ways import WAYS, end
from tests.traces import PATHS
from tracer.events import TcpState
from tracer.lifecycle import KNOWN, REASON_BY_TRANSITION, CloseReason

S = TcpState
ENDS = list(product(S, (False, True), (False, True), (False, True)))


@pytest.mark.parametrize(("first", "last"), [(first, last) for first, ends in WAYS.items() for last in ends])
def test_a_way_is_made_of_known_transitions(first: TcpState, last: TcpState) -> None:
    way = WAYS[first][last]
    assert all(KNOWN[old, new] for old, new in pairwise((first, *way)))
    assert way[-1] is (S.CLOSE if last is S.TIME_WAIT else last)


@pytest.mark.parametrize(("before", "established", "fin_acked", "lingers"), ENDS)
def test_an_end_is_made_of_known_transitions(before: TcpState, established: bool, fin_acked: bool, lingers: bool) -> None:
    if before not in (S.LISTEN, S.SYN_RECV, S.NEW_SYN_RECV, S.TIME_WAIT):
        way = end(before, established, fin_acked, lingers)
        assert way[-1] is S.CLOSE
        assert all(KNOWN[old, new] for old, new in pairwise((before, *way)))


@pytest.mark.parametrize(("before", "established", "fin_acked", "lingers"), ENDS)
def test_where_nothing_lingers_nobody_is_blamed(before: TcpState, established: bool, fin_acked: bool, lingers: bool) -> None:
    """A reset takes away what lingered."""
    if before in (S.CLOSE, S.SYN_SENT, S.ESTABLISHED) and not lingers:
        reasons = {
            REASON_BY_TRANSITION[old, new] for old, new in pairwise((before, *end(before, established, fin_acked, lingers)))
        }
        assert reasons == {CloseReason.UNDECIDED}


@pytest.mark.parametrize("name", ["peer", "local", "closing", "refused", "reset"])
def test_a_life_that_was_never_seen_ends_as_it_did(name: str) -> None:
    path = PATHS[name]
    established = any(new is S.ESTABLISHED for _, new, _ in path)
    in_order = path[-1][0] in (S.LAST_ACK, S.FIN_WAIT2, S.CLOSING)
    way = end(S.CLOSE, established, in_order, name in ("local", "closing"))
    assert set(way) <= {new for _, new, _ in path}
