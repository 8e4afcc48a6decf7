"""A run as a picture: one self-contained SVG. Pure.

From top to bottom: title and verdict; acknowledgements per second over time, with the phases as bands and gaps of
0.1 s and more in red; how old the oldest record was that the reader at the tail got; numbered events, told below;
the promises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from drills.promise import quantity
from drills.report import GAP_MIN_S, STEP_S, Report
from drills.timeline import Event, Gap

WIDTH = 1000
LEFT, RIGHT = 70, 20
PLOT_WIDTH = WIDTH - LEFT - RIGHT
ACKS_TOP, ACKS_HEIGHT = 110, 200
AGES_TOP, AGES_HEIGHT = 350, 110
NAMES_HEIGHT = 32
"""Above the plots: names of phases, in two rows, so that those of short ones do not run into each other."""
LIST_TOP = 520
LINE_HEIGHT = 18
GRID_LINES = 4
GOOD, BAD, INK, QUIET, ACKS, AGES = "#1a7f37", "#c62828", "#1f2328", "#8c959f", "#0969da", "#9a6700"
BANDS = ("#f6f8fa", "#eaeef2")


def draw(report: Report) -> str:
    timeline, seconds = report.timeline, max(report.seconds, STEP_S)
    rates = timeline.ack_rates(seconds, STEP_S)
    ages = timeline.worst_ages(seconds, STEP_S)
    gaps = timeline.gaps(GAP_MIN_S, report.last_ack)
    lines = [f"{number}  {event.at:.2f} s  {event.text}" for number, event in enumerate(timeline.events, 1)]
    height = LIST_TOP + LINE_HEIGHT * (len(lines) + len(report.promises) + 1)
    verdict, colour = ("passed", GOOD) if report.passed else ("FAILED", BAD)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 30, f"{report.drill}: {verdict}", colour, size=20, weight="bold"),
        _text(LEFT, 50, f"{report.setup}; seed {report.seed}; longest gap {quantity(report.longest_gap_s, 's')}", INK),
    ]
    x = _Scale(seconds)
    parts += _bands(report, x)
    parts += (_red(gap, x) for gap in gaps)
    parts += _plot(rates, ACKS_TOP, ACKS_HEIGHT, ACKS, "acks/s", x)
    parts += _plot(ages, AGES_TOP, AGES_HEIGHT, AGES, "oldest record read, s", x)
    parts += _time_axis(seconds, x)
    parts += _marks(timeline.events, x)
    told = [(line, INK) for line in lines]
    told += [(str(promise), GOOD if promise.kept else BAD) for promise in report.promises]
    parts += (_text(LEFT, LIST_TOP + LINE_HEIGHT * number, *line) for number, line in enumerate(told))
    return "\n".join([*parts, "</svg>\n"])


class _Scale:
    """From seconds to a position."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, at: float) -> float:
        return LEFT + PLOT_WIDTH * min(max(at / self._seconds, 0.0), 1.0)


def _bands(report: Report, x: _Scale) -> Iterator[str]:
    for number, phase in enumerate(report.timeline.phases):
        start, end = x(phase.start), x(min(phase.end, report.seconds))
        yield (
            f'<rect x="{start:.1f}" y="{ACKS_TOP - NAMES_HEIGHT}" width="{max(end - start, 0):.1f}" '
            f'height="{AGES_TOP + AGES_HEIGHT - ACKS_TOP + NAMES_HEIGHT}" fill="{BANDS[number % 2]}"/>'
        )
        yield _text(start + 3, ACKS_TOP - 20 + 14 * (number % 2), phase.name, INK)


def _red(gap: Gap, x: _Scale) -> str:
    return (
        f'<rect x="{x(gap.start):.1f}" y="{ACKS_TOP}" width="{max(x(gap.end) - x(gap.start), 1):.1f}" '
        f'height="{ACKS_HEIGHT}" fill="{BAD}" opacity="0.15"><title>{escape(str(gap.place))} without an '
        f"acknowledgement for {gap.length_s:.2f} s</title></rect>"
    )


def _marks(events: Sequence[Event], x: _Scale) -> Iterator[str]:
    for number, event in enumerate(events, 1):
        at = x(event.at)
        yield (
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{ACKS_TOP}" y2="{AGES_TOP + AGES_HEIGHT}" stroke="{INK}" '
            f'stroke-dasharray="2 3" opacity="0.5"><title>{escape(event.text)}</title></line>'
        )
        yield _text(at + 2, ACKS_TOP + 11 + 11 * (number % 3), str(number), INK)


def _plot(values: Sequence[float], top: int, height: int, colour: str, label: str, x: _Scale) -> list[str]:
    """An area under steps, with its scale at the left."""
    highest = _round_up(max(values, default=0.0))
    bottom = top + height
    parts = [_text(LEFT, top - (NAMES_HEIGHT + 6 if top == ACKS_TOP else 8), label, colour)]
    for number in range(GRID_LINES + 1):
        value = highest * number / GRID_LINES
        y = bottom - height * number / GRID_LINES
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{QUIET}" opacity="0.3"/>'
        )
        parts.append(_text(LEFT - 6, y + 4, f"{value:g}", QUIET, anchor="end"))
    points = [f"{x(0):.1f},{bottom}"]
    for number, value in enumerate(values):
        y = bottom - height * value / highest
        points += [f"{x(number * STEP_S):.1f},{y:.1f}", f"{x((number + 1) * STEP_S):.1f},{y:.1f}"]
    points.append(f"{x(len(values) * STEP_S):.1f},{bottom}")
    parts.append(f'<polygon points="{" ".join(points)}" fill="{colour}" fill-opacity="0.25" stroke="{colour}"/>')
    return parts


def _time_axis(seconds: float, x: _Scale) -> list[str]:
    step = next((size for size in (1, 2, 5, 10, 20, 30, 60, 120, 300) if seconds / size <= 15), 600)
    return [
        _text(x(at), AGES_TOP + AGES_HEIGHT + 16, f"{at} s", QUIET, anchor="middle")
        for at in range(0, int(seconds) + 1, step)
    ]


def _round_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten."""
    size = 1.0
    while size < value:
        size *= 10
    while size / 10 >= value > 0:
        size /= 10
    return next(size * factor / 10 for factor in (1, 2, 5, 10) if size * factor / 10 >= value)


def _text(
    x: float, y: float, text: str, colour: str, *, size: int = 12, weight: str = "normal", anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
