"""A played change as a picture: SVG, written by hand; PNG of it where the extra `png` is installed."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from itertools import groupby

from controller.core import compare, sequential
from controller.core.blocks import NO_REQUESTS, Counts
from controller.core.codec import format_duration, format_ratio
from controller.core.model import Phase, Verdict
from controller.core.policy import Policy
from controller.lab import LabError
from controller.lab.play import Look
from controller.lab.simulate import Played, Row, leading, rows

STABLE, NEW, WEIGHT, LIMIT, INK, FAINT = "#0072b2", "#d55e00", "#56b4e9", "#cc3311", "#222222", "#dddddd"
"""Told apart by people who are colour-blind: the palette of Okabe and Ito."""
VERDICTS = {Verdict.PASS: "#009e73", Verdict.INCONCLUSIVE: "#e6c14f", Verdict.FAIL: LIMIT}
GONE_BACK = "#999999"

WIDTH, LEFT, RIGHT = 1000, 90, 30
TOP, GAP, HEIGHTS = 100, 34, (190, 70, 130, 18)
WINDOW = timedelta(minutes=1)
_TICKS = tuple(timedelta(seconds=s) for s in (15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 21600, 86400))
_TICKS_MAX = 12
_EVIDENCE = (0.1, 1e5)

Point = tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """Where a part of the picture is, and how values become heights."""

    top: float
    height: float
    title: str
    share: Callable[[float], float]
    """A value's height, from 0 (bottom) to 1 (top)."""

    def y(self, value: float) -> float:
        return self.top + self.height * (1 - min(1.0, max(0.0, self.share(value))))


def draw(played: Played, policy: Policy, title: str) -> str:
    """The picture: the share of bad requests of both versions, the weight, the evidence, and the verdicts."""
    looks = played.looks
    stable, new = (list(_shares(looks, side)) for side in ("stable", "new"))
    limit = policy.error_rate.bad_ratio_max
    most = _round_up(max([2 * limit, *(value for _, value in (*stable, *new))]))
    tops = [TOP + sum(HEIGHTS[:i]) + i * GAP for i in range(len(HEIGHTS))]
    errors = Panel(tops[0], HEIGHTS[0], f"failed requests, over {format_duration(WINDOW)}", lambda v: v / most)
    weight = Panel(tops[1], HEIGHTS[1], "weight", lambda v: v / 100)
    evidence = Panel(tops[2], HEIGHTS[2], f"evidence (analysis: {policy.analysis.statistical})", _logarithm)
    verdicts = Panel(tops[3], HEIGHTS[3], "verdict", lambda v: v)
    x = _scale(played)
    bottom = verdicts.top + verdicts.height
    enough = compare.terms(policy, compare.ERRORS_VS_STABLE).e_value_max
    parts = [
        *_frame(title, bottom),
        *_time_axis(played, x, bottom),
        *_panel(errors, [(v, format_ratio(round(v, 6))) for v in (0, most / 2, most)]),
        *_level(errors, limit, f"limit {format_ratio(limit)}"),
        *(_line([(x(at), errors.y(value)) for at, value in part], STABLE) for part in _unbroken(stable)),
        *(_line([(x(at), errors.y(value)) for at, value in part], NEW) for part in _unbroken(new)),
        *_panel(weight, [(0, "0 %"), (100, "100 %")]),
        _line(_stairs([(x(look.at), weight.y(look.weight)) for look in looks]), WEIGHT),
        *_panel(evidence, [(v, f"{v:g}") for v in (0.1, 1, 10, 100, 1000, 1e4, 1e5)]),
        *_level(evidence, enough, f"enough: {enough:.0f}"),
        _line([(x(look.at), evidence.y(value)) for look in looks if (value := _e_value(look))], INK),
        *_panel(verdicts, []),
        *_strip(looks, x, verdicts),
        *_marks(played, x, bottom),
        *_legend(),
    ]
    height = bottom + 56
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}"'
    )
    style = 'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12"'
    return "\n".join([f"{head} {style}>", *parts, "</svg>", ""])


def png(svg: str) -> bytes:
    """The picture as pixels, two for each of its own. Raises LabError without the extra."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise LabError("--png needs the extra png: pip install 'serin[png]'; or take --svg") from None
    return bytes(svg_to_bytes(svg_string=svg, zoom=2, background="white"))


# --- What is drawn ---


def _shares(looks: Sequence[Look], side: str) -> Iterator[tuple[datetime, float]]:
    """The share of a version's requests that failed in the minute before each look in which it had any."""
    first = 0
    for look in looks:
        while look.at - looks[first].at > WINDOW:
            first += 1
        now, before = getattr(look, side), getattr(looks[first], side) if first else NO_REQUESTS
        in_window = Counts(now.bad - before.bad, now.total - before.total)
        if in_window.total:
            yield look.at, in_window.ratio


def _unbroken(points: Iterable[tuple[datetime, float]]) -> list[list[tuple[datetime, float]]]:
    """In parts: a version without requests has no share."""
    parts: list[list[tuple[datetime, float]]] = []
    for point in points:
        if not parts or point[0] - parts[-1][-1][0] > WINDOW / 2:
            parts.append([])
        parts[-1].append(point)
    return parts


def _e_value(look: Look) -> float:
    found = [sequential.mean_e_value(c.monitors) for c in look.state.comparisons if c.rule == compare.ERRORS_VS_STABLE]
    return found[0] if found and look.state.weighted_at else 0.0


def _logarithm(value: float) -> float:
    low, high = map(math.log, _EVIDENCE)
    return (math.log(max(value, _EVIDENCE[0])) - low) / (high - low)


def _round_up(value: float) -> float:
    """To 1, 2 or 5 and zeros."""
    size = 10.0 ** math.floor(math.log10(value))
    return min(1.0, next(step * size for step in (1, 2, 5, 10) if step * size >= value))


def _scale(played: Played) -> Callable[[datetime], float]:
    lasts = max(played.looks[-1].at - played.begun_at, timedelta(seconds=1))
    return lambda at: LEFT + (WIDTH - LEFT - RIGHT) * ((at - played.begun_at) / lasts)


# --- How ---


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = INK, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" {more}>{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'


def _line(points: Iterable[Point], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round"/>'


def _stairs(points: Sequence[Point]) -> Iterator[Point]:
    for (x, y), later in zip(points, [*points[1:], points[-1]], strict=True):
        yield x, y
        yield later[0], y


def _frame(title: str, bottom: float) -> Iterator[str]:
    yield f'<rect width="{WIDTH}" height="{bottom + 56:g}" fill="white"/>'
    for i, line in enumerate(title.splitlines()):
        yield _text(LEFT, 24 + 17 * i, line, more='font-size="14" font-weight="bold"' if i == 0 else "")


def _time_axis(played: Played, x: Callable[[datetime], float], bottom: float) -> Iterator[str]:
    lasts = played.looks[-1].at - played.begun_at
    every = next((tick for tick in _TICKS if lasts / tick <= _TICKS_MAX), _TICKS[-1])
    for n in range(lasts // every + 1):
        at = x(played.begun_at + n * every)
        yield _rule(at, TOP, at, bottom, "#f2f2f2")
        yield _text(at, bottom + 16, format_duration(n * every), anchor="middle")


def _panel(panel: Panel, ticks: Sequence[tuple[float, str]]) -> Iterator[str]:
    yield _text(LEFT, panel.top - 8, panel.title, more='font-weight="bold"')
    for value, text in ticks:
        yield _rule(LEFT, panel.y(value), WIDTH - RIGHT, panel.y(value), FAINT)
        yield _text(LEFT - 8, panel.y(value) + 4, text, anchor="end")


def _level(panel: Panel, value: float, text: str) -> Iterator[str]:
    yield _rule(LEFT, panel.y(value), WIDTH - RIGHT, panel.y(value), LIMIT, dashes="5 4")
    yield _text(LEFT + 8, panel.y(value) - 5, text, colour=LIMIT)


def _strip(looks: Sequence[Look], x: Callable[[datetime], float], panel: Panel) -> Iterator[str]:
    """A bar of colours: what was thought of the new version, when."""
    ends = [*(look.at for look in looks[1:]), looks[-1].at]
    for colour, group in groupby(zip(looks, ends, strict=True), key=lambda pair: _colour(pair[0])):
        spans = list(group)
        begin, end = x(spans[0][0].at), x(spans[-1][1])
        if colour:
            size = f'width="{end - begin:.1f}" height="{panel.height:g}"'
            yield f'<rect x="{begin:.1f}" y="{panel.top:.1f}" {size} fill="{colour}"/>'


def _colour(look: Look) -> str:
    if look.state.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK):
        return GONE_BACK
    evidence = leading(look.state)
    return VERDICTS[evidence.verdict] if evidence else ""


def _marks(played: Played, x: Callable[[datetime], float], bottom: float) -> Iterator[str]:
    """The moments at which the change moved, named where there is room."""
    free = 0.0
    for row in _named(rows(played.looks)):
        at, width = x(row.at), 7.0 * len(row.verdict)
        yield _rule(at, TOP, at, bottom, "#888888", dashes="2 3")
        if at >= free:
            beside = at + width > WIDTH - RIGHT
            yield _text(at, bottom + 34, row.verdict, anchor="end" if beside else "start", more='font-size="11"')
            free = at + width + 8


def _named(found: Iterable[Row]) -> Iterator[Row]:
    """Each that moves it on, and the first of those that say the same."""
    said = {*Verdict, "CleaningUp", "Draining"}
    for row in found:
        if row.verdict not in said:
            yield row
            said |= {row.verdict} - {"Advanced"}


def _legend() -> Iterator[str]:
    at = float(WIDTH - RIGHT)
    named = [("gone back", GONE_BACK), *((v.value, c) for v, c in reversed(VERDICTS.items()))]
    for text, colour in [*named, ("new version", NEW), ("stable", STABLE)]:
        at -= 7.2 * len(text)
        yield _text(at, TOP - 8, text, more='font-size="11"')
        at -= 16
        yield f'<rect x="{at:.1f}" y="{TOP - 17:.1f}" width="11" height="11" fill="{colour}"/>'
        at -= 12
