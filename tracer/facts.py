"""Facts: what a trace knows beside its events, and as JSON values that lines and captures share. Pure.

Endpoints that became known while it was taken, their addresses, and the owners of connections: with them a replay elsewhere
shows names and owners without the host.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from tracer.owners.owner import OwnerDetail
from tracer.roles import Role

_TEXT_LENGTH_MAX = 4096
_ENDPOINT_ID_MAX = (1 << 32) - 1
_TS_NS_MAX = 1 << 62  # as tracer.events', which knows of facts


@dataclass(frozen=True)
class EndpointFact:
    """What is known of an endpoint.

    Attributes:
        endpoint_id: its number.
        label: how it is called in every output.
        role: what it is for.
        origin: where it was learnt: file and key, "--registry", or what its clients did.
        mirror_of: the registry that it is asked instead of, "*" for any; "" none.
        learnt: it was in no list; it is watched for owners only that also talk to a registry's API.
    """

    endpoint_id: int
    label: str
    role: Role = Role.UNKNOWN
    origin: str = ""
    mirror_of: str = ""
    learnt: bool = False


@dataclass(frozen=True)
class AddressFact:
    """An address or network (canonical text) that an endpoint got, or lost, at a boottime in ns."""

    endpoint_id: int
    address: str
    added: bool
    ts_ns: int


Fact = EndpointFact | AddressFact | OwnerDetail


def fact_json(fact: Fact) -> dict[str, Any]:
    """A fact as a JSON object; its `type` says which kind."""
    if isinstance(fact, OwnerDetail):
        return {"type": "owner", **fact.to_json()}
    if isinstance(fact, AddressFact):
        return {"type": "address", "ts_ns": fact.ts_ns, "id": fact.endpoint_id, "address": fact.address, "added": fact.added}
    return {
        "type": "endpoint",
        "id": fact.endpoint_id,
        "endpoint": fact.label,
        "role": fact.role.value,
        "origin": fact.origin,
        "mirror_of": fact.mirror_of,
        "learnt": fact.learnt,
    }


def fact_of(found: object) -> Fact:
    """The fact that `fact_json` made an object of, out of a file that anybody may have written.

    Raises:
        ValueError: it is none, or something in it is of another kind or out of range.
    """
    if not isinstance(found, dict):
        raise ValueError("a fact is no object")
    kind = found.get("type")
    if kind == "owner":
        return OwnerDetail.from_json({name: value for name, value in found.items() if name != "type"})
    if kind not in ("address", "endpoint"):
        raise ValueError(f"{kind!r:.80} is no kind of fact")
    endpoint_id = whole(found, "id")
    if not 0 < endpoint_id <= _ENDPOINT_ID_MAX:
        raise ValueError(f"endpoint id {endpoint_id}")
    if kind == "endpoint":
        texts = [_text(found, name) for name in ("endpoint", "origin", "mirror_of")]
        return EndpointFact(endpoint_id, texts[0], _role(found), texts[1], texts[2], _truth(found, "learnt"))
    ts_ns = whole(found, "ts_ns")
    if not 0 <= ts_ns < _TS_NS_MAX:
        raise ValueError(f"ts_ns {ts_ns}")
    address = str(ipaddress.ip_network(_text(found, "address")))
    return AddressFact(endpoint_id, address.removesuffix("/32").removesuffix("/128"), _truth(found, "added"), ts_ns)


def whole(content: dict[str, Any], name: str, missing: int = 0) -> int:
    """A whole number of a JSON object, or what it is if it is missing.

    Raises:
        ValueError: it is something else.
    """
    value = content.get(name, missing)
    if type(value) is not int:
        raise ValueError(f"{name} is no whole number")
    return value


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name, "")
    if not isinstance(value, str) or len(value) > _TEXT_LENGTH_MAX:
        raise ValueError(f"{name} is no text of at most {_TEXT_LENGTH_MAX} characters")
    return value


def _truth(content: dict[str, Any], name: str) -> bool:
    value = content.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name} is neither true nor false")
    return value


def _role(content: dict[str, Any]) -> Role:
    """A role of a later version is one that is not known."""
    try:
        return Role(_text(content, "role"))
    except ValueError:
        return Role.UNKNOWN
