"""The charts, as Vega-Lite specifications: the same for the page and for the picture. Pure.

No value of a trace goes into a field name, an expression or an axis: specifications are made of constants and numbers, texts
are rows of datasets. Colours are those of Okabe and Ito, which people with any colour vision can tell apart; what they
say is also said by height, shape, direction or text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracer.pages.figures import Figures
from tracer.pages.span import Span

if TYPE_CHECKING:
    import altair as alt

Spec = dict[str, Any]

TIMELINE = "Findings, connections, and how many were open, opened and closed, over time."
SPREAD = "Distributions of lifetimes, connect times and times in states; the table of endpoints has their quantiles."
"""What a screen reader says of the charts."""

_STATE_COLOURS = {
    "SYN_SENT": "#E69F00", "NEW_SYN_RECV": "#E69F00", "SYN_RECV": "#E69F00", "ESTABLISHED": "#0072B2", "FIN_WAIT1": "#56B4E9",
    "FIN_WAIT2": "#8FD0F2", "CLOSING": "#56B4E9", "TIME_WAIT": "#8FD0F2", "CLOSE_WAIT": "#D55E00", "LAST_ACK": "#CC79A7",
    "LISTEN": "#009E73", "CLOSE": "#555555", "not seen": "#999999",
}  # fmt: skip
_SEVERITY_COLOURS = {"critical": "#D55E00", "warning": "#E69F00", "notice": "#56B4E9"}
_KIND_COLOURS = {
    "opened": "#0072B2", "closed: peer": "#D55E00", "closed: local": "#009E73", "closed: failed": "#CC79A7",
    "closed: unknown": "#999999",
}  # fmt: skip
_REASON_SHAPES = {
    "open": "triangle-right", "peer": "circle", "local": "square", "reset": "triangle-up", "local-reset": "triangle-down",
    "refused": "cross", "timeout": "diamond", "unreachable": "wedge", "aborted": "triangle-left", "unknown": "stroke",
}  # fmt: skip
_MARK_COLOUR, _PLAIN_MARK_COLOUR = "#D55E00", "#777777"
_BAND_PX, _BANDS_MIN_PX = 24, 24
_COUNTS_PX, _DISTRIBUTION_PX = 110, 62
_TICK_PX = 90
"""Between two labels of the axis of time."""
_LEGEND_PX = 125
"""Of one entry of a legend, with its mark."""
_DAY_NS, _SECONDS_SHOWN_NS = 86_400_000_000_000, 600_000_000_000
_COUNT = "abs(datum.value) >= 1000 ? format(abs(datum.value), '~s') : format(abs(datum.value), '~g')"
_PLAINLY = "datum.reason === 'peer' || datum.reason === 'local' || datum.reason === 'open'"
_SECONDS = "format(datum.value, '~s') + 's'"
_ZOOM = {
    "name": "zoom",
    "select": {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.ctrlKey || event.metaKey || event.altKey]"},
    "bind": "scales",
}
"""One for all charts along the axis of time. Turning the wheel alone scrolls the page."""


def timeline(figures: Figures, width_px: int = 800, title: Spec | None = None) -> Spec:
    """Findings, lanes, open connections, opens and closes, above each other along one axis of time.

    Args:
        figures: what to draw.
        width_px: of the plots, without axes and legends; a page may change it.
        title: a Vega-Lite title; a picture has the verdict there.
    """
    import altair as alt

    views = [_bands(figures, width_px)] if figures.datasets["findings"] else []
    views += [_lanes(figures, width_px), _open(figures, width_px), _turnover(figures, width_px)]
    chart = alt.vconcat(*views, spacing=14).resolve_scale(x="shared", color="independent", shape="independent")
    names = ("span", "findings", "shades", "connections", "stretches", "ends", "groups", "open", "peaks", "turnover")
    spec = _finished(chart, figures, names, width_px, title)
    zoomed = [layer["name"] for view in spec["vconcat"] for layer in view["layer"] if "name" in layer]
    return spec | {"description": TIMELINE, "params": [_ZOOM | {"views": zoomed}]}


def spread(figures: Figures, width_px: int = 800) -> Spec:
    """How long connections lived, took to connect and stayed in states: one row of bars each, along one logarithmic axis."""
    import altair as alt

    rows = figures.datasets["distributions"]
    names = list(dict.fromkeys(row["span"] for row in rows))
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    views = []
    for number, name in enumerate(names):
        last = number == len(names) - 1
        x = alt.X(
            "low:Q",
            title="duration (logarithmic)" if last else None,
            scale=alt.Scale(type="log", domain=[low, high], nice=False),
            axis=alt.Axis(labels=last, ticks=last, values=_decades(low, high), labelExpr=_SECONDS, labelFlush=True),
        )
        bars = (
            alt.Chart(alt.NamedData("distributions"))
            .transform_filter(alt.FieldEqualPredicate(field="span", equal=name))
            .mark_bar(color=_STATE_COLOURS.get(name, "#009E73"), stroke="white", strokeWidth=0.5)
            .encode(
                x=x,
                x2="high:Q",
                y2=alt.datum(0),
                y=alt.Y("count:Q", title=None, scale=alt.Scale(type="symlog"), axis=alt.Axis(tickCount=3, labelExpr=_COUNT)),
                tooltip=[
                    alt.Tooltip("span:N", title="what"),
                    alt.Tooltip("took:N", title="took"),
                    alt.Tooltip("count:Q", title="connections", format=","),
                ],
            )
        )
        heading = alt.TitleParams(name, anchor="start", fontSize=12, frame="group", fontWeight="bold", offset=3)
        views.append(bars.properties(width=width_px, height=_DISTRIBUTION_PX, title=heading))
    return _finished(alt.vconcat(*views, spacing=6), figures, ("distributions",), width_px, None) | {"description": SPREAD}


def _decades(low: float, high: float) -> list[float]:
    """Where a logarithmic axis has labels: powers of ten, of a short one also between them."""
    powers = range(-9, 8)
    whole = [10.0**power for power in powers if low <= 10.0**power <= high]
    if len(whole) > 2:
        return whole
    return [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= factor * 10.0**power <= high]


def _finished(chart: alt.VConcatChart, figures: Figures, names: tuple[str, ...], width_px: int, title: Spec | None) -> Spec:
    """The whole specification, with its data and nothing that a browser would have to load."""
    import altair as alt

    spec = chart.to_dict(context={"datasets": {}})
    spec["$schema"] = alt.SCHEMA_URL
    spec["datasets"] = {name: figures.datasets[name] for name in names}
    spec["autosize"] = {"type": "pad", "contains": "padding"}
    spec["config"] = {
        "view": {"stroke": "#8888"},
        "font": "sans-serif",
        "axis": {"gridOpacity": 0.4},
        "legend": {
            "orient": "bottom",
            "titleOrient": "left",
            "columns": max(2, width_px // _LEGEND_PX),
            "layout": {"bottom": {"direction": "vertical", "anchor": "start"}},
        },
    }
    if title is not None:
        spec["title"] = title
    return spec


def _time(field: str, span: Span, labels: bool = False, title: bool = False) -> alt.X:
    """A place on the axis of time."""
    import altair as alt

    heading = span.title() if title else None
    if not span.is_utc:
        axis = alt.Axis(title=heading, labels=labels, ticks=labels, labelFlush=True)
        return alt.X(f"{field}:Q", axis=axis, scale=alt.Scale(nice=False, zero=False))
    hours = "%d %b %H:%M" if span.length_ns >= _DAY_NS else "%H:%M"
    minutes = "%H:%M:%S" if span.length_ns < _SECONDS_SHOWN_NS else hours
    expression = (
        "utcFormat(datum.value, {year: '%d %b %Y', quarter: '%d %b', month: '%d %b', week: '%d %b', date: '%d %b', day: '%d %b', "
        f"hours: '{hours}', minutes: '{minutes}', seconds: '%H:%M:%S', milliseconds: '%H:%M:%S.%L'}})"
    )
    ticks = alt.ExprRef(f"ceil(width / {_TICK_PX})")
    axis = alt.Axis(
        title=heading,
        labels=labels,
        ticks=labels,
        labelExpr=expression,
        labelFlush=True,
        labelOverlap=True,
        labelSeparation=8,
        tickCount=ticks,
    )
    return alt.X(f"{field}:T", axis=axis, scale=alt.Scale(type="utc", nice=False))


def _scale(palette: dict[str, str], names: tuple[str, ...] = ()) -> alt.Scale:
    """The colours of these names, or of all."""
    import altair as alt

    shown = names or tuple(palette)
    return alt.Scale(domain=list(shown), range=[palette[name] for name in shown])


def _bands(figures: Figures, width_px: int) -> alt.LayerChart | alt.FacetChart:
    """One band a finding, with what it is in words."""
    import altair as alt

    rows = figures.datasets["findings"]
    height = max(_BANDS_MIN_PX, _BAND_PX * len(rows))
    y = alt.Y("level:Q", axis=None, scale=alt.Scale(domain=[0, len(rows)], reverse=True, nice=False))
    data = alt.NamedData("findings")
    tooltip = [
        alt.Tooltip("title:N", title="finding"),
        alt.Tooltip("since:N", title="since"),
        alt.Tooltip("lasted:N", title="lasted"),
    ]
    colours = _scale(_SEVERITY_COLOURS)
    bands = (
        alt.Chart(data, name="bands")
        .transform_calculate(bottom="datum.level + 0.88")
        .mark_rect(opacity=0.55, strokeWidth=1.5, clip=True)
        .encode(
            x=_time("from", figures.span),
            x2="to",
            y=y,
            y2="bottom:Q",
            color=alt.Color("severity:N", scale=colours, legend=None),
            stroke=alt.Stroke("severity:N", scale=colours, legend=None),
            tooltip=tooltip,
        )
    )
    words = (
        alt.Chart(data)
        .transform_calculate(middle="datum.level + 0.44")
        .mark_text(align="left", fontSize=12, fontWeight="bold", clip=True)
    )
    texts = words.encode(x=alt.value(5), y=alt.Y("middle:Q", axis=None), text="title:N")
    text = "Findings" if len(rows) == figures.episodes else f"Findings: the gravest {len(rows)} of {figures.episodes}"
    heading = alt.TitleParams(text, anchor="start", frame="group", fontSize=12, offset=3)
    return alt.layer(bands, texts).properties(width=width_px, height=height, title=heading)


def _behind(figures: Figures, x: alt.X) -> list[alt.Chart]:
    """The bands of the findings, if there are any, faint, over the whole height of another chart."""
    import altair as alt

    if not figures.datasets["shades"]:
        return []

    fill = alt.Fill("severity:N", scale=_scale(_SEVERITY_COLOURS), legend=None)
    return [alt.Chart(alt.NamedData("shades")).mark_rect(opacity=0.12, clip=True).encode(x=x, x2="to", fill=fill)]


def _told() -> tuple[alt.LookupData, list[alt.Tooltip]]:
    """What is known of a connection by its number `c`, and how a tooltip says it."""
    import altair as alt

    shown = {
        "endpoint": "endpoint", "owner": "owner", "route": "ports", "opened": "opened", "life": "lived",
        "connect": "connect took", "ended": "ended by", "in": "received", "out": "sent",
    }  # fmt: skip
    connections = alt.LookupData(alt.NamedData("connections"), "c", fields=list(shown))
    return connections, [alt.Tooltip(f"{field}:N", title=title) for field, title in shown.items()]


def _lanes(figures: Figures, width_px: int) -> alt.LayerChart | alt.FacetChart:
    """Connections as bars, coloured and as high as their state is far along, under the titles of their groups."""
    import altair as alt

    y = alt.Y("top:Q", axis=None, scale=alt.Scale(domain=[0, figures.lanes_px], reverse=True, nice=False))
    connections, told = _told()
    time = _time("from", figures.span, labels=True)
    legend = alt.Legend(title="state", symbolType="square")
    bars = (
        alt.Chart(alt.NamedData("stretches"), name="lanes")
        .transform_lookup("c", connections)
        .mark_rect(strokeWidth=1, clip=True)
        .encode(
            x=time,
            x2="to",
            y=y,
            y2="bottom:Q",
            color=alt.Color("state:N", scale=_scale(_STATE_COLOURS, figures.states), legend=legend),
            stroke=alt.Stroke("state:N", scale=_scale(_STATE_COLOURS, figures.states), legend=legend),
            tooltip=[alt.Tooltip("state:N", title="state"), alt.Tooltip("took:N", title="in it for"), *told],
        )
    )
    titles = alt.Chart(alt.NamedData("groups")).mark_text(align="left", fontSize=11, fontWeight="bold", opacity=0.85, clip=True)
    ends = alt.Chart(alt.NamedData("span")).mark_point(opacity=0).encode(x=_time("at", figures.span, labels=True))
    layers = [ends, *_behind(figures, time), bars, titles.encode(x=alt.value(5), y=alt.Y("y:Q", axis=None), text="title:N")]
    layers += [_marks(figures)] if figures.reasons else []
    heading = alt.TitleParams("Connections", anchor="start", frame="group", fontSize=12, offset=3)
    layered = alt.layer(*layers).resolve_scale(fill="independent", stroke="independent", color="independent")
    return layered.properties(width=width_px, height=figures.lanes_px, title=heading)


def _marks(figures: Figures) -> alt.Chart:
    """How connections ended, by shape."""
    import altair as alt

    connections, told = _told()
    shapes = alt.Scale(domain=list(figures.reasons), range=[_REASON_SHAPES[name] for name in figures.reasons])
    legend = alt.Legend(symbolStrokeColor=_PLAIN_MARK_COLOUR)
    return (
        alt.Chart(alt.NamedData("ends"))
        .transform_lookup("c", connections)
        .mark_point(size=34, strokeWidth=1.6, opacity=0.95, clip=True)
        .encode(
            x=_time("at", figures.span, labels=True),
            y=alt.Y("y:Q", axis=None),
            color=alt.when(_PLAINLY).then(alt.value(_PLAIN_MARK_COLOUR)).otherwise(alt.value(_MARK_COLOUR)),
            shape=alt.Shape("reason:N", title="ended by", scale=shapes, legend=legend),
            tooltip=[alt.Tooltip("reason:N", title="end"), *told],
        )
    )


def _open(figures: Figures, width_px: int) -> alt.LayerChart | alt.FacetChart:
    """How many connections were in which state, on average in each bin, before the most at a time."""
    import altair as alt

    time = _time("from", figures.span)
    axis = alt.Axis(tickCount=4, tickMinStep=1, labelExpr=_COUNT, titleFontSize=11)
    peak = [alt.Tooltip("since:N", title="from"), alt.Tooltip("most:Q", title="most open at a time", format=",")]
    most = alt.Chart(alt.NamedData("peaks"), name="open").mark_rect(color="#8884", clip=True)
    told = [
        alt.Tooltip("state:N", title="state"),
        alt.Tooltip("since:N", title="from"),
        alt.Tooltip("mean:Q", title="open on average", format=".3~g"),
    ]
    areas = alt.Chart(alt.NamedData("open")).mark_rect(clip=True)
    colour = alt.Color("state:N", scale=_scale(_STATE_COLOURS, figures.states), legend=None)
    top = most.encode(x=time, x2="to", y=alt.Y("zero:Q", title="open", axis=axis), y2="most:Q", tooltip=peak)
    layers = [*_behind(figures, time), top]
    if figures.datasets["open"]:
        y = alt.Y("low:Q", title="open", axis=axis)
        layers.append(areas.encode(x=time, x2="to", y=y, y2="high:Q", color=colour, tooltip=told))
    text = "Open: most at a time (grey), mean by state"
    heading = alt.TitleParams(text, anchor="start", frame="group", fontSize=12, offset=3)
    return alt.layer(*layers).properties(width=width_px, height=_COUNTS_PX, title=heading)


def _turnover(figures: Figures, width_px: int) -> alt.LayerChart | alt.FacetChart:
    """Opened upwards, closed downwards by side."""
    import altair as alt

    time = _time("from", figures.span, labels=True, title=True)
    kinds = tuple(kind for kind in _KIND_COLOURS if any(row["kind"] == kind for row in figures.datasets["turnover"]))
    bars = (
        alt.Chart(alt.NamedData("turnover"), name="turnover")
        .mark_rect(clip=True)
        .encode(
            x=time,
            x2="to",
            y=alt.Y(
                "low:Q", title="closed, opened", axis=alt.Axis(tickCount=5, tickMinStep=1, labelExpr=_COUNT, titleFontSize=11)
            ),
            y2="high:Q",
            color=alt.Color("kind:N", title=None, scale=_scale(_KIND_COLOURS, kinds), legend=alt.Legend(symbolType="square")),
            tooltip=[
                alt.Tooltip("kind:N", title="which"),
                alt.Tooltip("since:N", title="from"),
                alt.Tooltip("count:Q", title="connections", format=","),
            ],
        )
    )
    zero = alt.Chart(alt.NamedData("turnover")).mark_rule(strokeWidth=1).encode(y=alt.datum(0))
    heading = alt.TitleParams("Opened (up) and closed (down, by side)", anchor="start", frame="group", fontSize=12, offset=3)
    return alt.layer(*_behind(figures, time), bars, zero).properties(width=width_px, height=_COUNTS_PX, title=heading)
