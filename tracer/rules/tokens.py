"""What an owner did at token servers and at registries about the same time. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from tracer.clients import family_of
from tracer.roles import Role
from tracer.rules.outcomes import ERROR_MAX_BYTES, Outcome
from tracer.rules.view import SESSION_NS, View
from tracer.visits import Client, Visit

SECOND_NS = 1_000_000_000
MID_PULL_NS, AGES_NS = SECOND_NS // 2, 3600 * SECOND_NS
"""Between two requests of one pull, and of one program that was started for it."""
ANSWERS_MIN = 2
SHRUNK, SHRUNK_FROM_ONE = 0.75, 0.5


class Grant(Enum):
    """What a visit to a token server came to."""

    UNKNOWN = "unknown"
    GRANTED = "granted"  # an answer as usual, or the registry was asked again afterwards
    REFUSED = "refused"  # much less than usual
    UNUSED = "unused"  # no past to compare with, but the registry was not asked again


def grant(view: View, client: Client, visit: Visit) -> Grant:
    """Judge a visit to a token server that is over."""
    if not visit.exchanges:
        return Grant.UNKNOWN
    # Refusals are never learnt from: they are not among the largest answers. Of one large answer more is asked than of two.
    usual = client.largest[0] if len(client.largest) == ANSWERS_MIN else 0
    answer = visit.exchanges[-1][1]
    if answer <= SHRUNK * usual or (client.largest and answer <= SHRUNK_FROM_ONE * client.largest[-1]):
        return Grant.REFUSED
    if _asked_again(view, client, visit):
        return Grant.GRANTED
    if usual and _downloads(view, client):
        return Grant.GRANTED
    return Grant.UNUSED


def token_servers(view: View, client: Client) -> Iterator[Client]:
    """The same owner at token servers."""
    return (other for other in view.elsewhere(client) if view.role(other.owner.endpoint_id) is Role.AUTH)


def registries(view: View, client: Client) -> Iterator[Client]:
    """The same owner at endpoints that are no token servers."""
    return (other for other in view.elsewhere(client) if view.role(other.owner.endpoint_id) is not Role.AUTH)


def _downloads(view: View, client: Client) -> bool:
    return any(other.received_max > ERROR_MAX_BYTES for other in registries(view, client))


def _asked_again(view: View, client: Client, visit: Visit) -> bool:
    """Whether a registry was asked after the answer: by a new connection, or on one that was still open."""
    for other in view.perhaps_elsewhere(client):
        if view.role(other.owner.endpoint_id) is Role.AUTH:
            continue
        for own in other.visits:
            near = own.start_ns <= visit.last_end_ns + SESSION_NS
            if near and own.last_open_ns > visit.start_ns:
                return True
            if near and own.start_ns <= visit.start_ns and (not own.over or own.last_end_ns > visit.last_end_ns):
                return True
    return False


def refused_token(view: View, client: Client, visit: Visit) -> bool:
    """Whether the owner of a visit to a registry got no token about that time."""
    return any(
        own.outcome is not None
        and _near(visit, own)
        and (own.outcome is Outcome.FAILED or grant(view, other, own) in (Grant.REFUSED, Grant.UNUSED))
        for other in token_servers(view, client)
        for own in other.visits
    )


def has_token_server(view: View, client: Client) -> bool:
    """Whether the owner was ever seen at a token server."""
    return any(True for _ in token_servers(view, client))


def _near(visit: Visit, other: Visit) -> bool:
    return visit.start_ns - SESSION_NS < other.start_ns <= max(visit.last_open_ns, visit.last_end_ns) + SESSION_NS


def downloaded_before(view: View, client: Client, visit: Visit) -> bool:
    """Whether the process that asked for a token in this visit was in the middle of a pull.

    A program that is started for one pull was if it had downloaded anything; a daemon if it did so just before.
    """
    if visit.pid < 0:
        return False
    since_ns = visit.start_ns - (MID_PULL_NS if family_of(client.owner.comm).engine else AGES_NS)
    return any(
        own.received_max > ERROR_MAX_BYTES and own.pid == visit.pid and own.start_ns < visit.last_open_ns
        and (own.last_end_ns >= since_ns or not own.over)
        for other in registries(view, client)
        for own in other.visits
    )  # fmt: skip
