"""From a packet's network header to the DNS messages in it. Pure; every length is checked before it is used.

Packets begin with the IP header, as AF_PACKET sockets of type SOCK_DGRAM give them. Fragments are passed over, and of TCP only
messages are seen that lie whole in one segment with their length in front of them, which is how servers send all but the largest.
"""

from __future__ import annotations

import struct

DNS_PORT = 53
_UDP, _TCP = 17, 6
_PORTS = struct.Struct("!HH")  # source, destination
_UINT16 = struct.Struct("!H")
_UDP_HEADER_BYTES = 8
_TCP_HEADER_BYTES = 20
_IPV4_HEADER_BYTES = 20
_IPV6_HEADER_BYTES = 40
_MORE_FRAGMENTS_OR_OFFSET = 0x3FFF
_EXTENSIONS = frozenset({0, 43, 60})  # hop by hop, routing, destination options: RFC 8200, section 4
_EXTENSIONS_MAX = 8
_MESSAGES_MAX = 16


def dns_messages(packet: bytes) -> list[bytes]:
    """The messages sent from port 53 in an IPv4 or IPv6 packet; none if it is something else, a fragment, or cut off."""
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        protocol, payload = _of_ipv4(packet)
    elif version == 6:
        protocol, payload = _of_ipv6(packet)
    else:
        return []
    if protocol == _UDP:
        return _of_udp(payload)
    return _of_tcp(payload) if protocol == _TCP else []


def _of_ipv4(packet: bytes) -> tuple[int, bytes]:
    """(protocol, payload); (-1, b"") if it can't be told."""
    if len(packet) < _IPV4_HEADER_BYTES:
        return -1, b""
    header_bytes = (packet[0] & 0x0F) * 4
    total_bytes = _UINT16.unpack_from(packet, 2)[0]
    if _UINT16.unpack_from(packet, 6)[0] & _MORE_FRAGMENTS_OR_OFFSET:
        return -1, b""
    if not _IPV4_HEADER_BYTES <= header_bytes <= total_bytes <= len(packet):
        return -1, b""
    return packet[9], packet[header_bytes:total_bytes]


def _of_ipv6(packet: bytes) -> tuple[int, bytes]:
    """(protocol, payload); (-1, b"") if it can't be told."""
    if len(packet) < _IPV6_HEADER_BYTES:
        return -1, b""
    end = _IPV6_HEADER_BYTES + _UINT16.unpack_from(packet, 4)[0]
    if end > len(packet):
        return -1, b""
    protocol, at = packet[6], _IPV6_HEADER_BYTES
    for _ in range(_EXTENSIONS_MAX):
        if protocol not in _EXTENSIONS:
            return protocol, packet[at:end]
        if at + 8 > end:
            break
        protocol, at = packet[at], at + 8 * (packet[at + 1] + 1)
    return -1, b""


def _of_udp(datagram: bytes) -> list[bytes]:
    if len(datagram) < _UDP_HEADER_BYTES or _PORTS.unpack_from(datagram)[0] != DNS_PORT:
        return []
    length = _UINT16.unpack_from(datagram, 4)[0]
    return [datagram[_UDP_HEADER_BYTES:length]] if _UDP_HEADER_BYTES < length <= len(datagram) else []


def _of_tcp(segment: bytes) -> list[bytes]:
    if len(segment) < _TCP_HEADER_BYTES or _PORTS.unpack_from(segment)[0] != DNS_PORT:
        return []
    at = (segment[12] >> 4) * 4
    messages: list[bytes] = []
    while _TCP_HEADER_BYTES <= at <= len(segment) - 2 and len(messages) < _MESSAGES_MAX:
        length = _UINT16.unpack_from(segment, at)[0]
        message = segment[at + 2 : at + 2 + length]
        if not message or len(message) < length:
            break
        messages.append(message)
        at += 2 + length
    return messages
