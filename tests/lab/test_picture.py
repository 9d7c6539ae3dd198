"""The picture shows what was played: lines where the numbers are, and pixels of it."""

import struct
import sys
from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from xml.etree import ElementTree

import pytest

from controller.lab import LabError
from controller.lab.picture import GONE_BACK, LEFT, LIMIT, NEW, RIGHT, STABLE, VERDICTS, WEIGHT, WIDTH, draw, png
from controller.lab.policies import load
from controller.lab.service import Scenario
from controller.lab.simulate import Played, simulate

KIND, POLICY = load("standard")
SCENARIO = Scenario(rps=50, stable_errors=0.001, canary_errors=0.2, onset=timedelta(minutes=6))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def played() -> Played:
    return simulate(POLICY, KIND, SCENARIO, "7")


@pytest.fixture(scope="module")
def drawn(played: Played) -> ElementTree.Element:
    return ElementTree.fromstring(draw(played, POLICY, "What <happened> & why\nIt went back"))


def lines(drawn: ElementTree.Element) -> dict[str, list[tuple[float, float]]]:
    """The points of each colour."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in drawn.iter(f"{SVG}polyline"):
        points = (point.split(",") for point in line.attrib["points"].split())
        found[line.attrib["stroke"]] += [(float(x), float(y)) for x, y in points]
    return found


def test_lines_are_within_their_panels_and_go_forward(drawn: ElementTree.Element) -> None:
    found = lines(drawn)
    assert {STABLE, NEW, WEIGHT} < set(found)
    for points in found.values():
        assert all(LEFT <= x <= WIDTH - RIGHT for x, _ in points)
        assert [x for x, _ in points] == sorted(x for x, _ in points)


def test_the_new_version_is_drawn_above_stable_after_its_onset_alone(
    played: Played, drawn: ElementTree.Element
) -> None:
    found = lines(drawn)
    onset = LEFT + (WIDTH - LEFT - RIGHT) * (SCENARIO.onset / (played.looks[-1].at - played.begun_at))
    lowest = max(y for _, y in found[STABLE])
    assert min(y for x, y in found[NEW] if x < onset) > lowest - 20
    assert min(y for x, y in found[NEW]) < lowest - 60, "y grows downwards"


def test_a_version_without_requests_has_no_line() -> None:
    late = simulate(POLICY, KIND, replace(SCENARIO, onset=timedelta(minutes=13)), "7")
    drawn = ElementTree.fromstring(draw(late, POLICY, ""))
    of_stable = [line for line in drawn.iter(f"{SVG}polyline") if line.attrib["stroke"] == STABLE]
    assert len(of_stable) == 2, "until the canary has all of them, and when it is taken back"


def test_the_weight_goes_up_in_steps_and_back(drawn: ElementTree.Element) -> None:
    heights = [y for _, y in lines(drawn)[WEIGHT]]
    assert len(set(heights)) == 3, "0, 10 and 50 %"
    assert heights[0] == heights[-1] == max(heights)


def test_it_says_what_it_shows(drawn: ElementTree.Element) -> None:
    texts = {text.text for text in drawn.iter(f"{SVG}text")}
    assert {"What <happened> & why", "It went back", "limit 1%", "enough: 143", "Started", "WorseThanStable"} <= texts
    colours = {rect.attrib["fill"] for rect in drawn.iter(f"{SVG}rect")}
    assert {*VERDICTS.values(), GONE_BACK, STABLE, NEW, LIMIT} <= colours


def test_what_never_started_can_be_drawn_too() -> None:
    broken = simulate(POLICY, KIND, replace(SCENARIO, stable_errors=0.5), "7")
    assert ElementTree.fromstring(draw(broken, POLICY, "")).tag == f"{SVG}svg"


def test_pixels(played: Played) -> None:
    pixels = png(draw(played, POLICY, "What happened"))
    assert pixels[:8] == b"\x89PNG\r\n\x1a\n"
    width, _ = struct.unpack(">II", pixels[16:24])
    assert width == 2 * WIDTH
    empty = png('<svg xmlns="http://www.w3.org/2000/svg" width="1000" height="600"/>')
    assert len(pixels) > 4 * len(empty), "something is on it"


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(LabError, match=r"pip install 'serin\[png\]'; or take --svg"):
        png("<svg/>")
