"""From pictures to transitions: each way, each doubt, and any life looked at at any pace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallback.diag_records import DIAG_DTYPE, DiagFlag, Records
from fallback.differ import Differ, Look
from fallback.sockets import SOCKET_DTYPE, Sockets
from fallback.steps import Differences
from tests.traces import MS, PATHS, SECOND, v4
from tracer.connections import ConnectionTracker
from tracer.events import EVENT_DTYPE, TcpState, is_adopted
from tracer.lifecycle import KNOWN, REASON_NAMES, CloseReason

S = TcpState
NETNS = 4_026_531_840


def socket(state: TcpState, *, lport: int = 40_000, inode: int = 7, raddr: str = "203.0.113.7", rx_queue: int = 0) -> np.void:
    row = np.zeros(1, SOCKET_DTYPE)[0]
    row["netns"], row["inode"], row["state"], row["family"] = NETNS, inode, state, 2
    row["laddr"], row["raddr"] = (np.frombuffer(v4(text), np.uint8) for text in ("10.0.0.5", raddr))
    row["lport"], row["rport"], row["rx_queue"] = lport, 443, rx_queue
    return row


def picture(*rows: np.void) -> Sockets:
    return np.array(list(rows), SOCKET_DTYPE)


def look(rows: Sockets, at_ns: int) -> Look:
    """A picture that took no time."""
    return Look(rows, at_ns, at_ns)


def ways(found: Differences) -> list[tuple[str, str]]:
    return [(S(old).name, S(new).name) for old, new in zip(found.events["old_state"], found.events["new_state"], strict=True)]


def after(*pictures: Sockets) -> Differences:
    """What the last of some pictures, a second apart, brought."""
    differ = Differ()
    for number, each in enumerate(pictures):
        found = differ.take(look(each, (number + 1) * SECOND))
    return found


def test_what_is_open_at_first_is_adopted_and_what_lingers_is_not() -> None:
    events = after(picture(socket(S.ESTABLISHED), socket(S.TIME_WAIT, lport=2))).events
    assert events["sport"].tolist() == [40_000]
    assert is_adopted(events).all()
    assert (events["old_state"] == S.ESTABLISHED).all()


def test_a_socket_that_is_as_it_was_makes_none() -> None:
    assert not len(after(picture(socket(S.ESTABLISHED)), picture(socket(S.ESTABLISHED))).events)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (S.SYN_SENT, ["SYN_SENT"]),
        (S.ESTABLISHED, ["SYN_SENT", "ESTABLISHED"]),
        (S.CLOSE_WAIT, ["SYN_SENT", "ESTABLISHED", "CLOSE_WAIT"]),
        (S.LAST_ACK, ["SYN_SENT", "ESTABLISHED", "CLOSE_WAIT", "LAST_ACK"]),
        (S.FIN_WAIT2, ["SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2"]),
        (S.TIME_WAIT, ["SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "CLOSE"]),
    ],
)
def test_a_new_socket_went_all_the_way_to_its_state(state: TcpState, expected: list[str]) -> None:
    found = ways(after(picture(), picture(socket(state))))
    assert [new for _, new in found] == expected
    assert found[0][0] == "CLOSE"


@pytest.mark.parametrize("state", [S.LISTEN, S.SYN_RECV, S.NEW_SYN_RECV, S.CLOSE])
def test_what_listens_or_was_opened_from_outside_is_no_connection_to_a_registry(state: TcpState) -> None:
    assert not len(after(picture(), picture(socket(state))).events)


def test_how_a_vanished_connection_ended_stays_unknown() -> None:
    differ, tracker = Differ(), ConnectionTracker()
    for at_ns, each in ((1, picture()), (2, picture(socket(S.ESTABLISHED))), (3, picture())):
        ended = tracker.feed(differ.take(look(each, at_ns * SECOND)).events).ended
    assert REASON_NAMES[ended["close_reason"][0]] == "unknown"


@pytest.mark.parametrize(("seen", "reason"), [(S.CLOSE_WAIT, "peer"), (S.FIN_WAIT2, "local"), (S.TIME_WAIT, "local")])
def test_who_closed_is_known_where_the_state_tells(seen: TcpState, reason: str) -> None:
    differ, tracker = Differ(), ConnectionTracker()
    ended = [
        tracker.feed(differ.take(look(each, at_ns * SECOND)).events).ended
        for at_ns, each in enumerate((picture(), picture(socket(S.ESTABLISHED)), picture(socket(seen)), picture()), 1)
    ]
    assert [REASON_NAMES[row["close_reason"]] for rows in ended for row in rows] == [reason]


def test_time_wait_is_an_end_and_not_another_connection_when_it_goes() -> None:
    assert ways(after(picture(socket(S.ESTABLISHED)), picture(socket(S.TIME_WAIT, inode=0)), picture())) == []


def test_another_inode_on_the_same_ports_is_another_connection() -> None:
    found = ways(after(picture(socket(S.ESTABLISHED, inode=7)), picture(socket(S.ESTABLISHED, inode=8))))
    assert found == [("ESTABLISHED", "CLOSE"), ("CLOSE", "SYN_SENT"), ("SYN_SENT", "ESTABLISHED")]


def test_a_state_that_never_follows_is_another_connection() -> None:
    found = ways(after(picture(socket(S.TIME_WAIT, inode=0)), picture(socket(S.SYN_SENT, inode=9))))
    assert found == [("CLOSE", "SYN_SENT")]


def test_a_socket_that_its_process_has_closed_is_still_the_same() -> None:
    found = ways(after(picture(socket(S.CLOSE_WAIT, inode=7)), picture(socket(S.LAST_ACK, inode=0))))
    assert found == [("CLOSE_WAIT", "LAST_ACK")]


def test_unread_bytes_leave_out_the_fin() -> None:
    events = after(picture(socket(S.ESTABLISHED)), picture(socket(S.CLOSE_WAIT, rx_queue=1001))).events
    assert events["unread_bytes"].tolist() == [1000]


def test_events_say_how_much_earlier_they_may_have_been() -> None:
    differ = Differ()
    differ.take(look(picture(), 5 * SECOND))
    found = differ.take(look(picture(socket(S.ESTABLISHED)), 5 * SECOND + 80 * MS))
    assert found.early_ns.tolist() == [80 * MS, 80 * MS]
    assert set(found.events["ts_ns"].tolist()) == {5 * SECOND + 80 * MS}


def test_a_socket_listed_twice_counts_once() -> None:
    assert len(after(picture(), picture(socket(S.SYN_SENT), socket(S.SYN_SENT))).events) == 1


# --- with records of what ended


UP = DiagFlag.ESTABLISHED | DiagFlag.HAS_RECEIVED | DiagFlag.HAS_ACKED
IN_ORDER = UP | DiagFlag.FIN_ACKED


def record(flags: DiagFlag, *, cookie: int = 9, lport: int = 40_000, received_ns: int = 0, received: int = 501) -> Records:
    """What sock_diag tells of an end."""
    made = np.zeros(1, DIAG_DTYPE)
    same = socket(S.CLOSE, lport=lport)
    for field in ("laddr", "raddr", "lport", "rport", "family"):
        made[field] = same[field]
    made["cookie"], made["flags"], made["received_ns"], made["bytes_received"] = cookie, int(flags), received_ns, received
    made["state"] = S.CLOSE
    return made


def with_cookie(state: TcpState, cookie: int = 9, **fields: Any) -> np.void:
    row = socket(state, **fields)
    row["cookie"] = cookie
    return row


class Looking:
    """A differ that is given a look each second."""

    def __init__(self) -> None:
        self.differ = Differ(with_records=True)
        self.now_s = 0

    def __call__(self, *rows: np.void, ended: Records | None = None) -> Differences:
        self.now_s += 1
        now_ns = self.now_s * SECOND
        records = np.zeros(0, DIAG_DTYPE) if ended is None else ended.copy()
        records["received_ns"] = now_ns
        records["since_ns"] = now_ns - SECOND
        return self.differ.take(Look(picture(*rows), now_ns, now_ns, None, records))


@pytest.fixture
def looking() -> Looking:
    made = Looking()
    made()
    return made


def test_a_record_of_what_was_never_seen_is_a_life_of_which_nobody_knows_who_ended_it(looking: Looking) -> None:
    found = looking(ended=record(IN_ORDER))
    assert [new for _, new in ways(found)] == ["SYN_SENT", "ESTABLISHED", "CLOSE"]


def test_what_lingers_was_closed_by_this_side(looking: Looking) -> None:
    found = looking(socket(S.TIME_WAIT, inode=0), ended=record(IN_ORDER))
    assert [new for _, new in ways(found)] == ["SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "CLOSE"]


def test_where_the_peer_s_fin_was_seen_it_closed_first_and_its_fin_is_no_payload(looking: Looking) -> None:
    looking(with_cookie(S.CLOSE_WAIT))
    found = looking(ended=record(IN_ORDER))
    assert ways(found) == [("CLOSE_WAIT", "LAST_ACK"), ("LAST_ACK", "CLOSE")]
    assert found.events["bytes_received"].max() == 500


def test_a_fin_of_which_nobody_knows_is_not_taken_off(looking: Looking) -> None:
    assert looking(ended=record(IN_ORDER)).events["bytes_received"].max() == 501


def test_what_is_gone_waits_for_its_record(looking: Looking) -> None:
    looking(with_cookie(S.ESTABLISHED))
    assert not len(looking().events)
    assert ways(looking(ended=record(IN_ORDER))) == [("ESTABLISHED", "CLOSE")]


def test_what_is_gone_without_a_record_ended_somehow(looking: Looking) -> None:
    looking(with_cookie(S.ESTABLISHED))
    looking()
    assert ways(looking()) == [("ESTABLISHED", "CLOSE")]


def test_a_record_that_comes_after_that_is_not_another_connection(looking: Looking) -> None:
    looking(with_cookie(S.ESTABLISHED))
    looking()
    looking()
    assert not len(looking(ended=record(UP)).events)


def test_what_has_begun_to_linger_waits_for_its_record_and_is_told_once(looking: Looking) -> None:
    looking(with_cookie(S.ESTABLISHED))
    lingering = socket(S.TIME_WAIT, inode=0)
    assert not len(looking(lingering).events)
    assert ways(looking(lingering, ended=record(IN_ORDER))) == [("ESTABLISHED", "FIN_WAIT1"), ("FIN_WAIT1", "CLOSE")]
    assert not len(looking(lingering).events)


def test_what_lingers_without_ever_a_record_is_told_at_the_second_look(looking: Looking) -> None:
    lingering = socket(S.TIME_WAIT, inode=0)
    assert not len(looking(lingering).events)
    assert [new for _, new in ways(looking(lingering))] == ["SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "CLOSE"]
    assert not len(looking(lingering).events)


def test_its_record_is_no_news_then_and_that_of_the_next_one_on_its_ends_is(looking: Looking) -> None:
    lingering = socket(S.TIME_WAIT, inode=0)
    looking(lingering)
    looking(lingering)
    assert not len(looking(lingering, ended=record(IN_ORDER)).events)
    looking(with_cookie(S.ESTABLISHED, cookie=10))
    assert ways(looking(ended=record(IN_ORDER, cookie=10))) == [("ESTABLISHED", "CLOSE")]


def test_all_in_a_namespace_that_is_gone_ends(looking: Looking) -> None:
    looking(with_cookie(S.ESTABLISHED), socket(S.TIME_WAIT, lport=2, inode=0))
    assert ways(looking.differ.end_all(9 * SECOND)) == [("ESTABLISHED", "CLOSE")]
    assert not len(looking.differ)


def test_in_a_namespace_that_was_empty_before_all_was_opened_since() -> None:
    differ = Differ(with_records=True)
    differ.begin_empty(3 * SECOND)
    found = differ.take(look(picture(with_cookie(S.ESTABLISHED)), 5 * SECOND))
    assert ways(found) == [("CLOSE", "SYN_SENT"), ("SYN_SENT", "ESTABLISHED")]
    assert set(found.early_ns.tolist()) == {2 * SECOND}


def test_a_new_cookie_on_the_same_ends_is_another_connection(looking: Looking) -> None:
    looking(with_cookie(S.ESTABLISHED, cookie=9, inode=0))
    found = ways(looking(with_cookie(S.ESTABLISHED, cookie=10, inode=0)))
    assert found == [("ESTABLISHED", "CLOSE"), ("CLOSE", "SYN_SENT"), ("SYN_SENT", "ESTABLISHED")]


def test_a_record_before_the_first_look_has_no_opening() -> None:
    looking = Looking()
    assert ways(looking(ended=record(IN_ORDER))) == [("ESTABLISHED", "CLOSE")]


# --- when other things are watched


def is_elsewhere(rows: Sockets) -> np.ndarray[Any, Any]:
    return np.asarray(rows["raddr"][:, 15] != 7, bool)


def test_what_is_watched_no_more_does_not_end(looking: Looking) -> None:
    looking(with_cookie(S.ESTABLISHED))
    looking.differ.rewatch(is_elsewhere)
    assert not len(looking().events)
    assert not len(looking.differ)


def test_what_is_newly_watched_was_open_before(looking: Looking) -> None:
    looking.differ.rewatch(is_elsewhere)
    found = looking(socket(S.ESTABLISHED, raddr="203.0.113.8"))
    assert is_adopted(found.events).all()
    assert ways(looking(socket(S.CLOSE_WAIT, raddr="203.0.113.8"))) == [("ESTABLISHED", "CLOSE_WAIT")]


OUTBOUND = [name for name in PATHS if name not in ("inbound", "listener", "simultaneous-open", "broken-pipe", "timed-out")]


@dataclass(frozen=True)
class Life:
    """One connection: its path, when it begins, how long each state lasts; its port is its number's."""

    path: str
    start_ms: int
    gaps_ms: tuple[int, ...]

    def state_at(self, at_ms: int) -> TcpState:
        """As /proc shows it, but for TIME_WAIT, which is passed over here; CLOSE is not shown."""
        state, now_ms = S.CLOSE, self.start_ms
        for step, (_, new, _) in enumerate(PATHS[self.path]):
            now_ms += self.gaps_ms[min(step, len(self.gaps_ms) - 1)] if step else 0
            if now_ms > at_ms:
                return state
            state = new
        return state


LIVES = st.lists(
    st.builds(
        Life,
        st.sampled_from(OUTBOUND),
        st.integers(0, 500),
        st.lists(st.integers(0, 200), min_size=1, max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=8,
)
PACES = st.lists(st.integers(1, 300), min_size=1, max_size=12)


@given(LIVES, PACES)
def test_any_life_at_any_pace_gives_a_consistent_connection(lives: list[Life], pace_ms: list[int]) -> None:
    """No transition that TCP does not make; no connection too many; nobody blamed who did not close."""
    differ, tracker = Differ(), ConnectionTracker()
    differ.take(look(picture(), 0))
    at_ms, ended, events = -1, [], np.zeros(0, EVENT_DTYPE)
    for step_ms in [*pace_ms, 5000]:
        at_ms += step_ms
        shown = [(number, life.state_at(at_ms)) for number, life in enumerate(lives)]
        rows = [socket(state, lport=1000 + number, inode=100 + number) for number, state in shown if state is not S.CLOSE]
        found = differ.take(look(picture(*rows), (at_ms + 1) * MS))
        events = np.concatenate([events, found.events])
        ended += [(int(row["lport"]), CloseReason(row["close_reason"])) for row in tracker.feed(found.events).ended]
    assert KNOWN[events["old_state"], events["new_state"]].all()
    assert len({port for port, _ in ended}) == len(ended)
    for port, reason in ended:
        path = lives[port - 1000].path
        truth = {"peer": "peer", "peer-then-reset": "peer", "local": "local", "local-no-fin-wait2": "local", "closing": "local"}
        assert REASON_NAMES[reason] in ("unknown", truth.get(path, "unknown"))
    assert not len(tracker.open())


@given(LIVES, PACES)
def test_events_of_one_socket_address_are_one_connection(lives: list[Life], pace_ms: list[int]) -> None:
    differ = Differ()
    differ.take(look(picture(), 0))
    at_ms, owner = -1, {}
    for step_ms in [*pace_ms, 5000]:
        at_ms += step_ms
        rows = [
            socket(life.state_at(at_ms), lport=1000 + number, inode=100 + number)
            for number, life in enumerate(lives)
            if life.state_at(at_ms) is not S.CLOSE
        ]
        for event in differ.take(look(picture(*rows), (at_ms + 1) * MS)).events:
            assert owner.setdefault(int(event["skaddr"]), int(event["sport"])) == int(event["sport"])
