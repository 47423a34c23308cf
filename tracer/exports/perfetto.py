"""A timeline for ui.perfetto.dev: a stream of trace packets.

Times are boottime; a clock snapshot lets the UI show wall-clock time where the trace has a clock. Names, and texts that occur
often, are interned. Packets are written some thousand at a time: memory holds arrays, and never the whole trace as messages.
Everything that anybody may have chosen passes `text.printable`, for what is shown there is copied into terminals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    ClockSnapshot,
    DebugAnnotation,
    Trace,
    TracePacket,
    TrackDescriptor,
    TrackEvent,
)

from tracer.collected.collector import Collected
from tracer.collected.tables import Kind
from tracer.exports import Told
from tracer.exports.about import about
from tracer.exports.arguments import (
    connection_arguments,
    connection_names,
    finding_arguments,
    finding_name,
    loss_arguments,
    loss_name,
    trace_name,
)
from tracer.exports.timeline import Mark, Timeline, timeline_of
from tracer.lifecycle import STATE_NAMES
from tracer.text import printable

_SEQUENCE = 1
_PACKETS_A_WRITE = 4096
_INT64_MAX = (1 << 63) - 1
_CATEGORIES = {
    Mark.STATE: "state", Mark.CONNECTION: "connection", Mark.FINDING: "finding", Mark.LOSS: "loss", Mark.TRACE: "trace",
}  # fmt: skip


def write_perfetto(collected: Collected, what: str, stream: BinaryIO, told: Told) -> None:
    """Write everything, whatever `what` is; see `tracer.exports.export`."""
    timeline = timeline_of(collected)
    writer = _Writer(stream)
    writer.head(collected, timeline)
    slices = _Slices(writer, collected)
    marks = timeline.marks
    for start in range(0, len(marks), _PACKETS_A_WRITE):
        told(start / len(marks))
        for ts_ns, value, track, mark in marks[start : start + _PACKETS_A_WRITE].tolist():
            slices.add(ts_ns, value, track, mark)
        writer.flush()


class _Writer:
    """Packets of one sequence, with the texts interned in them."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._trace = Trace()
        self._interned: dict[tuple[str, str], int] = {}

    def flush(self) -> None:
        """Write the packets that are there. A trace is the concatenation of such pieces."""
        self._stream.write(self._trace.SerializeToString())
        self._trace = Trace()  # not Clear(): the memory of a message grows for as long as it lives

    def packet(self, ts_ns: int | None = None) -> TracePacket:
        """One more packet."""
        packet = self._trace.packet.add()
        packet.trusted_packet_sequence_id = _SEQUENCE
        if ts_ns is not None:
            packet.timestamp = ts_ns
            packet.sequence_flags = TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        return packet

    def head(self, collected: Collected, timeline: Timeline) -> None:
        """What comes before every event: the clock, and the tracks."""
        first = self.packet()
        first.first_packet_on_sequence = True
        first.sequence_flags = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        first.trace_packet_defaults.timestamp_clock_id = ClockSnapshot.Clock.BOOTTIME
        clock = collected.header.clock
        if clock is not None and timeline.since_ns + clock.offset_ns >= 0:
            snapshot = self.packet().clock_snapshot
            snapshot.primary_trace_clock = ClockSnapshot.Clock.BOOTTIME
            snapshot.clocks.add(clock_id=ClockSnapshot.Clock.BOOTTIME, timestamp=timeline.since_ns)
            snapshot.clocks.add(clock_id=ClockSnapshot.Clock.REALTIME, timestamp=timeline.since_ns + clock.offset_ns)
        for track in timeline.tracks:
            descriptor = self.packet().track_descriptor
            descriptor.uuid = track.number
            descriptor.name = printable(track.name)
            if track.description:
                descriptor.description = printable(track.description)
            if track.parent:
                descriptor.parent_uuid = track.parent
                descriptor.sibling_order_rank = track.rank
            else:
                descriptor.child_ordering = TrackDescriptor.EXPLICIT
            if track.unit:
                descriptor.counter.unit_name = track.unit
        self.flush()

    def interned(self, packet: TracePacket, kind: str, text: str) -> int:
        """The number of a text among those of its kind; it is given one, and told, with the packet that needs it first."""
        number = self._interned.get((kind, text))
        if number is None:
            number = self._interned[kind, text] = len(self._interned) + 1
            entry = getattr(packet.interned_data, kind).add()
            entry.iid = number
            if kind == "debug_annotation_string_values":
                entry.str = printable(text).encode()
            else:
                entry.name = printable(text)
        return number


class _Slices:
    """Turns marks into packets."""

    def __init__(self, writer: _Writer, collected: Collected) -> None:
        self._writer = writer
        self._collected = collected
        self._names = connection_names(collected)
        self._arguments = [(each.name, _SETTERS[each.kind], each.values) for each in connection_arguments(collected)]

    def add(self, ts_ns: int, value: int, track: int, mark: int) -> None:
        """Write one mark."""
        packet = self._writer.packet(ts_ns)
        event = packet.track_event
        event.track_uuid = track
        if mark == Mark.END:
            event.type = TrackEvent.TYPE_SLICE_END
        elif mark == Mark.COUNT:
            event.type = TrackEvent.TYPE_COUNTER
            event.counter_value = value
        else:
            event.type = TrackEvent.TYPE_SLICE_BEGIN
            event.category_iids.append(self._writer.interned(packet, "event_categories", _CATEGORIES[Mark(mark)]))
            self._begin(packet, event, value, Mark(mark))

    def _begin(self, packet: TracePacket, event: TrackEvent, value: int, mark: Mark) -> None:
        if mark is Mark.STATE:
            name = STATE_NAMES[value]
        elif mark is Mark.CONNECTION:
            name = self._names[value]
            self._describe_connection(packet, event, value)
        else:
            name, arguments = self._rare(value, mark)
            for each, found in arguments.items():
                if _says_something(found):
                    annotation = event.debug_annotations.add()
                    annotation.name_iid = self._writer.interned(packet, "debug_annotation_names", each)
                    _fill(annotation, found)
        event.name_iid = self._writer.interned(packet, "event_names", name)

    def _describe_connection(self, packet: TracePacket, event: TrackEvent, index: int) -> None:
        interned, annotations = self._writer.interned, event.debug_annotations
        for name, setter, values in self._arguments:
            value = values[index]
            if value is not None:
                annotation = annotations.add()
                annotation.name_iid = interned(packet, "debug_annotation_names", name)
                if setter is None:
                    annotation.string_value_iid = interned(packet, "debug_annotation_string_values", value)
                else:
                    setter(annotation, value)

    def _rare(self, value: int, mark: Mark) -> tuple[str, dict[str, Any]]:
        """Name and arguments of what there are few of."""
        if mark is Mark.FINDING:
            finding = self._collected.findings[value]
            return finding_name(finding), finding_arguments(finding)
        if mark is Mark.LOSS:
            loss = self._collected.summary.losses[value]
            return loss_name(loss), loss_arguments(loss)
        return trace_name(self._collected), about(self._collected)


def _set_integer(annotation: DebugAnnotation, value: int) -> None:
    annotation.int_value = value


def _set_truth(annotation: DebugAnnotation, value: bool) -> None:
    annotation.bool_value = value


_SETTERS: dict[Kind, Callable[[DebugAnnotation, Any], None] | None] = {
    Kind.INTEGER: _set_integer,
    Kind.TRUTH: _set_truth,
    Kind.TEXT: None,  # interned
}


def _says_something(value: Any) -> bool:
    """An annotation can't be an empty list or object, nor hold nothing but such."""
    if isinstance(value, dict):
        return any(map(_says_something, value.values()))
    return not isinstance(value, list | tuple) or any(map(_says_something, value))


def _fill(annotation: DebugAnnotation, value: Any) -> None:
    """A JSON value as an annotation."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if _says_something(inner):
                entry = annotation.dict_entries.add()
                entry.name = printable(str(name))
                _fill(entry, inner)
    elif isinstance(value, list | tuple):
        for inner in filter(_says_something, value):
            _fill(annotation.array_values.add(), inner)
    elif isinstance(value, bool):
        annotation.bool_value = value
    elif isinstance(value, int) and abs(value) <= _INT64_MAX:
        annotation.int_value = value
    elif isinstance(value, float):
        annotation.double_value = value
    else:
        annotation.string_value = "unknown" if value is None else printable(str(value))
