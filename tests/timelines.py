"""Reading Perfetto traces back, with the package's own messages and by the rules of its trace processor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import DebugAnnotation, Trace, TracePacket, TrackDescriptor, TrackEvent


@dataclass
class Slice:
    """A slice that ended; `depth` 0 is the outermost."""

    track: int
    name: str
    category: str
    start_ns: int
    end_ns: int
    depth: int
    arguments: dict[str, Any]
    inside: list[Slice] = field(default_factory=list)


@dataclass
class Read:
    """What a trace says.

    Attributes:
        tracks: by uuid.
        slices: of all tracks, in the order of their beginnings.
        counts: (time, value) by uuid of the track.
        clocks: of the snapshot, time by clock id.
        times: of all events, in the order of the file.
    """

    tracks: dict[int, TrackDescriptor] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    counts: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    clocks: dict[int, int] = field(default_factory=dict)
    times: list[int] = field(default_factory=list)

    def group(self, name: str) -> int:
        """The uuid of the one group of that name."""
        (found,) = (uuid for uuid, track in self.tracks.items() if track.name == name and not track.parent_uuid)
        return found

    def within(self, group: int, name: str) -> list[int]:
        """The uuids of the tracks of that name in a group."""
        return [uuid for uuid, track in self.tracks.items() if track.parent_uuid == group and track.name == name]

    def of(self, category: str) -> list[Slice]:
        """The slices of a category."""
        return [each for each in self.slices if each.category == category]


class _Interned:
    """Texts by kind and number; one is told once, before or with the packet that uses it."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, int], str] = {}

    def take(self, packet: TracePacket) -> None:
        for kind, entries in packet.interned_data.ListFields():
            for entry in entries:
                assert (kind.name, entry.iid) not in self._texts, "told twice"
                text = entry.str.decode() if kind.name.endswith("string_values") else entry.name
                assert text not in {known for (each, _), known in self._texts.items() if each == kind.name}, "told twice"
                self._texts[kind.name, entry.iid] = text

    def text(self, kind: str, number: int) -> str:
        return self._texts[kind, number]


def read(content: bytes) -> Read:
    """A whole trace; every slice has to end, and nothing to end that did not begin."""
    trace = Trace()
    trace.ParseFromString(content)
    found, interned = Read(), _Interned()
    stacks: dict[int, list[Slice]] = {}
    cleared = False
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id
        cleared = cleared or bool(packet.sequence_flags & TracePacket.SEQ_INCREMENTAL_STATE_CLEARED)
        assert cleared, "the sequence has a state of its own from its first packet on"
        interned.take(packet)
        if packet.HasField("track_descriptor"):
            assert packet.track_descriptor.uuid not in found.tracks
            assert not packet.track_descriptor.parent_uuid or packet.track_descriptor.parent_uuid in found.tracks
            found.tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        elif packet.HasField("clock_snapshot"):
            found.clocks = {clock.clock_id: clock.timestamp for clock in packet.clock_snapshot.clocks}
        elif packet.HasField("track_event"):
            assert packet.sequence_flags & TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
            found.times.append(packet.timestamp)
            _take_event(packet, found, interned, stacks)
    assert not any(stacks.values()), "something did not end"
    return found


def _take_event(packet: TracePacket, found: Read, interned: _Interned, stacks: dict[int, list[Slice]]) -> None:
    event, ts_ns = packet.track_event, packet.timestamp
    assert event.track_uuid in found.tracks
    stack = stacks.setdefault(event.track_uuid, [])
    counts = found.tracks[event.track_uuid].HasField("counter")
    assert counts == (event.type == TrackEvent.TYPE_COUNTER)
    if counts:
        found.counts.setdefault(event.track_uuid, []).append((ts_ns, event.counter_value))
    elif event.type == TrackEvent.TYPE_SLICE_END:
        stack.pop().end_ns = ts_ns
    else:
        assert event.type == TrackEvent.TYPE_SLICE_BEGIN
        (category,) = event.category_iids
        made = Slice(
            event.track_uuid,
            interned.text("event_names", event.name_iid),
            interned.text("event_categories", category),
            ts_ns,
            -1,
            len(stack),
            {_name(each, interned): _value(each, interned) for each in event.debug_annotations},
        )
        assert len(made.arguments) == len(event.debug_annotations), "an argument is there twice"
        if stack:
            stack[-1].inside.append(made)
        stack.append(made)
        found.slices.append(made)


def _name(annotation: DebugAnnotation, interned: _Interned) -> str:
    if annotation.name_iid:
        return interned.text("debug_annotation_names", annotation.name_iid)
    return str(annotation.name)


def _value(annotation: DebugAnnotation, interned: _Interned) -> Any:
    if annotation.dict_entries:
        return {_name(each, interned): _value(each, interned) for each in annotation.dict_entries}
    if annotation.array_values:
        return [_value(each, interned) for each in annotation.array_values]
    kind = annotation.WhichOneof("value")
    assert kind is not None, f"{annotation} says nothing"
    if kind == "string_value_iid":
        return interned.text("debug_annotation_string_values", annotation.string_value_iid)
    return getattr(annotation, kind)
