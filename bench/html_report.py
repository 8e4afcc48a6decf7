"""The report as one HTML file: all figures with bars for the systems, each round a dot; no scripts, no network."""

from __future__ import annotations

from html import escape

from bench.figures import KAFKA, STUB, TAILRACE, Results, Row, Verdict
from bench.report import Machine, number, verdicts

_COLOURS = {TAILRACE: "#1667b7", KAFKA: "#b3541e", STUB: "#8a8a8a"}
_OTHER_COLOUR = "#5b7f2b"
_WIDTH, _BAR = 320, 13
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3em .8em .3em 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.met { color: #1b7a32; } .missed { color: #b00020; font-weight: 600; }
small { color: #666; }
@media (prefers-color-scheme: dark) { body { background: #16181b; color: #ddd; } th, td { border-color: #333; } }
"""


def html_page(results: Results, about: Machine) -> str:
    rows = list(results.rows())
    summary, *_ = verdicts(results)
    unmeasured = "".join(
        f"<li>{escape(each.key)}, {escape(each.title.strip())}: not measured (target {escape(str(each.target))})</li>"
        for each in results.unmeasured()
    )
    notes = unmeasured + "".join(f"<li>{escape(note)}</li>" for note in results.notes)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>tailrace beside Apache Kafka</title><style>{_STYLE}</style></head>
<body><h1>tailrace beside Apache Kafka</h1>
<p>{escape(about.date)}, {about.minutes:g} minutes, up to {about.rounds} rounds{", quick: noisy" * about.quick}.
{about.cores} cores, {about.memory_gib:g} GiB, {escape(about.system)}; Python {escape(about.python)},
tailrace {escape(about.tailrace)}, Apache Kafka {escape(about.kafka)} on Java {escape(about.java)}.</p>
<p>{escape(summary)}. Bars are medians, dots are rounds; ratios are of tailrace's median.</p>
<table><thead><tr><th></th><th>figure</th><th></th>
<th class="n">ratio</th><th class="n">target</th><th></th><th class="n">spread</th></tr></thead>
<tbody>{"".join(_row(row, results.samples[row.figure.key]) for row in rows)}</tbody></table>
{f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""}
</body></html>
"""


def _row(row: Row, samples: dict[str, list[float]]) -> str:
    figure = row.figure
    verdict = {Verdict.MET: '<span class="met">met</span>', Verdict.MISSED: '<span class="missed">not met</span>'}
    spreads = "<br>".join(f"{escape(system)} {spread:.0%}" for system, spread in row.spreads.items())
    return (
        f"<tr><td><small>{escape(figure.key)}</small></td>"
        f"<td>{escape(figure.title.strip())}<br><small>{escape(figure.unit)}</small></td>"
        f"<td>{_bars(row, samples)}</td>"
        f'<td class="n">{number(row.ratio)}</td>'
        f'<td class="n">{escape(str(figure.target)) if figure.target is not None else ""}</td>'
        f"<td>{verdict.get(row.verdict, '')}</td>"
        f'<td class="n"><small>{spreads}</small></td></tr>'
    )


def _bars(row: Row, samples: dict[str, list[float]]) -> str:
    most = max(max(values) for values in samples.values()) or 1.0
    height = len(samples) * (_BAR + 5)
    parts = []
    for place, (system, values) in enumerate(samples.items()):
        top, median = place * (_BAR + 5), row.medians[system]
        colour = _COLOURS.get(system, _OTHER_COLOUR)
        parts.append(
            f'<rect x="0" y="{top}" width="{median / most * _WIDTH:.1f}" height="{_BAR}" fill="{colour}"/>'
            f'<text x="{_WIDTH + 8}" y="{top + _BAR - 2}" font-size="12" fill="currentColor">'
            f"{escape(system)} {number(median)}</text>"
        )
        parts += [
            f'<circle cx="{value / most * _WIDTH:.1f}" cy="{top + _BAR / 2}" r="2.5" fill="{colour}" stroke="#fff"/>'
            for value in values
        ]
    return f'<svg width="{_WIDTH + 160}" height="{height}" role="img">{"".join(parts)}</svg>'
