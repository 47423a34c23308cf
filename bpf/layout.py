"""Which bytes of the running kernel's structures the program reads, as macros for its compiler.

A required member that is missing makes the program impossible; an optional one costs its field, which the record then
flags invalid. Sizes are checked: a member that changed its type is treated as missing, not read as something else.
"""

from __future__ import annotations

from dataclasses import dataclass

from bpf.btf import Btf

TRACEPOINT = "inet_sock_set_state"

# macro -> (structure, member, size in bytes)
REQUIRED = {
    "OFF_FAMILY": ("sock_common", "skc_family", 2),
    "OFF_STATE": ("sock_common", "skc_state", 1),
    "OFF_DADDR": ("sock_common", "skc_daddr", 4),
    "OFF_RCV_SADDR": ("sock_common", "skc_rcv_saddr", 4),
    "OFF_DPORT": ("sock_common", "skc_dport", 2),
    "OFF_NUM": ("sock_common", "skc_num", 2),
    "OFF_PROTOCOL": ("sock", "sk_protocol", 2),
    "OFF_INET_SPORT": ("inet_sock", "inet_sport", 2),
}
OPTIONAL = {
    "OFF_V6_DADDR": ("sock_common", "skc_v6_daddr", 16),
    "OFF_V6_RCV_SADDR": ("sock_common", "skc_v6_rcv_saddr", 16),
    "OFF_NET": ("sock_common", "skc_net.net", 8),
    "OFF_NET_INUM": ("net", "ns.inum", 4),
    "OFF_FLAGS": ("sock_common", "skc_flags", 8),
    "OFF_SK_ERR": ("sock", "sk_err", 4),
    "OFF_BYTES_RECEIVED": ("tcp_sock", "bytes_received", 8),
    "OFF_BYTES_ACKED": ("tcp_sock", "bytes_acked", 8),
    "OFF_SND_UNA": ("tcp_sock", "snd_una", 4),
    "OFF_WRITE_SEQ": ("tcp_sock", "write_seq", 4),
    "OFF_RCV_NXT": ("tcp_sock", "rcv_nxt", 4),
    "OFF_COPIED_SEQ": ("tcp_sock", "copied_seq", 4),
    "OFF_SRTT_US": ("tcp_sock", "srtt_us", 4),
    "OFF_TOTAL_RETRANS": ("tcp_sock", "total_retrans", 4),
    "OFF_LRCVTIME": ("inet_connection_sock", "icsk_ack.lrcvtime", 4),
}
_COMMON_BYTES_MAX = 128  # of the BPF stack's 512
_WINDOW_BYTES_MAX = 256  # of the same


@dataclass(frozen=True)
class KernelLayout:
    """Macros for the compiler, and the members this kernel lacks ("struct.member")."""

    macros: dict[str, int]
    missing_required: tuple[str, ...]
    missing_optional: tuple[str, ...]


def kernel_layout(btf: Btf, jiffy_ns: int) -> KernelLayout:
    """Look up every member the program reads.

    Args:
        btf: the running kernel's types.
        jiffy_ns: length of a jiffy in ns; 0 if unknown, which costs `idle_ms`.

    Raises:
        BtfError: the BTF is malformed.
    """
    macros: dict[str, int] = {}
    missing: dict[str, str] = {}
    for macro, (structure, path, size_bytes) in (REQUIRED | OPTIONAL).items():
        member = btf.member(structure, path)
        if member is None or member.size_bytes != size_bytes:
            missing[macro] = f"{structure}.{path}"
        else:
            macros[macro] = member.offset_bytes
    done_bit = btf.enumerator("SOCK_DONE")
    if done_bit is None:
        macros.pop("OFF_FLAGS", None)
        missing["OFF_FLAGS"] = "enum sock_flags SOCK_DONE"
    else:
        macros["SOCK_DONE_BIT"] = done_bit
    if jiffy_ns > 0:
        macros["JIFFY_NS"] = jiffy_ns
    macros["COMMON_BYTES"] = _common_bytes(macros)
    macros["WINDOW_START"], macros["WINDOW_BYTES"] = _window(macros)
    if macros["COMMON_BYTES"] > _COMMON_BYTES_MAX:
        missing["OFF_FAMILY"] = f"struct sock_common within {_COMMON_BYTES_MAX} bytes"
    return KernelLayout(
        macros,
        tuple(what for macro, what in missing.items() if macro in REQUIRED),
        tuple(what for macro, what in missing.items() if macro not in REQUIRED),
    )


def _window(macros: dict[str, int]) -> tuple[int, int]:
    """(start, bytes) of the stretch of struct tcp_sock that holds most of what is read of it: one read instead of several."""
    spans = sorted(
        (macros[macro], macros[macro] + size_bytes)
        for macro, (structure, _path, size_bytes) in OPTIONAL.items()
        if structure == "tcp_sock" and macro in macros
    )
    best = (0, 0, 0)  # how many members, start, bytes
    for start in (first - first % 8 for first, _ in spans):
        inside = [end for first, end in spans if first >= start and end <= start + _WINDOW_BYTES_MAX]
        if len(inside) > best[0]:
            best = (len(inside), start, max(inside) - start)
    return best[1:]


def _common_bytes(macros: dict[str, int]) -> int:
    """How much of struct sock's head holds every member of sock_common that is read."""
    ends = [
        macros[macro] + size_bytes
        for macro, (structure, _path, size_bytes) in (REQUIRED | OPTIONAL).items()
        if structure == "sock_common" and macro in macros
    ]
    return max(ends, default=8)
