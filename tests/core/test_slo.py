"""controller.core.slo: "error rate > 1 % for 5 minutes", on the data's own timestamps."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.codec import decode, encode
from controller.core.samples import Arm, Sample
from controller.core.slo import Breach, counts, exceeds, extend, fresh, window

START = datetime(2026, 11, 23, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SUSTAINED = timedelta(minutes=5)
EMPTY = Breach("error-rate", "shop")


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def stream(*samples: tuple[float, float, float]) -> Arm:
    return Arm(tuple(Sample(START + seconds(at), bad, total) for at, bad, total in samples))


def steady(bad: Callable[[int], float], until: int, every: int = 1, total: float = 10_000) -> Arm:
    return stream(*((at, bad(at), total) for at in range(0, until + 1, every)))


def judge(
    arm: Arm,
    breach: Breach = EMPTY,
    *,
    ratio_max: float = 0.01,
    length: timedelta = MINUTE,
    gap_max: timedelta = MINUTE,
) -> Breach:
    return extend(breach, arm, ratio_max=ratio_max, window=length, gap_max=gap_max)


def test_window_is_open_at_its_beginning_and_closed_at_its_end() -> None:
    arm = stream((0, 1, 10), (30, 2, 20), (60, 4, 40), (61, 8, 80))
    assert window(arm.samples, START + seconds(60), seconds(60)) == (6, 60)
    assert window(arm.samples, START + seconds(-1), seconds(60)) == (0, 0)


def test_counts_are_of_later_samples_only() -> None:
    arm = stream((0, 1, 10), (30, 2, 20), (60, 4, 40))
    assert counts(arm, START) == (6, 60)
    assert counts(arm, START + seconds(60)) == (0, 0)


def test_an_arm_is_fresh_until_its_data_is_older_than_allowed() -> None:
    arm = Arm(fresh_at=START)
    assert fresh(arm, START + seconds(60), seconds(60))
    assert not fresh(arm, START + seconds(60.001), seconds(60))
    assert not fresh(Arm(), START, seconds(60))


@pytest.mark.parametrize("percent", [0.1, 1, 1.1, 2.3, 10])
def test_exactly_the_limit_does_not_exceed_it(percent: float) -> None:
    assert exceeds(percent * 10, 1000, percent / 100) is False
    assert exceeds(percent * 10, 1000, 1 - (1 - percent / 100)) is False
    assert exceeds(percent * 10 + 1, 1000, percent / 100) is True


def test_no_requests_exceed_nothing() -> None:
    assert exceeds(0, 0, 0.01) is None


@pytest.mark.parametrize("every", [1, 2, 5, 15, 60])
def test_a_little_over_one_percent_for_five_minutes_fires(every: int) -> None:
    assert judge(steady(lambda _: 101, 300, every)).bad_for == SUSTAINED


def test_exactly_one_percent_never_fires() -> None:
    assert judge(steady(lambda _: 100, 3600)).bad_for == timedelta()


def test_299_seconds_and_recovery_do_not_fire() -> None:
    arm = steady(lambda at: 101 if at <= 299 else 0, 600)
    longest = max(judge(Arm(arm.samples[:n])).bad_for for n in range(290, 310))
    assert longest == seconds(299)
    assert judge(arm).bad_for == timedelta()


def test_one_good_sample_starts_the_count_again() -> None:
    breach = judge(steady(lambda at: 0 if at == 200 else 500, 301), length=seconds(1))
    assert breach.bad_for == seconds(100)


def test_silence_pauses_the_count() -> None:
    """200 s bad, then 100 s without requests (a window of 10 s is empty for 90 of them), then bad again."""
    arm = stream(*((at, 0 if 200 < at < 300 else 50, 0 if 200 < at < 300 else 1000) for at in range(401)))
    breach = judge(arm, length=seconds(10))
    assert breach.bad_for == seconds(209) + seconds(100)
    assert breach.last_bad


def test_a_gap_in_the_data_adds_nothing() -> None:
    arm = stream((0, 5, 10), (15, 5, 10), (200, 5, 10), (215, 5, 10))
    assert judge(arm).bad_for == seconds(30)
    assert judge(arm, gap_max=seconds(200)).bad_for == seconds(215)


def test_no_data_changes_nothing() -> None:
    breach = Breach("error-rate", "shop", seconds(120), START, True)
    assert judge(Arm(), breach) == breach


SAMPLES = st.lists(
    st.tuples(st.integers(1, 90), st.integers(0, 40), st.integers(0, 1000)).map(lambda s: (s[0], min(s[1:]), s[2])),
    max_size=60,
).map(lambda gaps: tuple(_at_moments(gaps)))


def _at_moments(gaps: Sequence[tuple[int, int, int]]) -> list[Sample]:
    moment, samples = START, []
    for gap, bad, total in gaps:
        moment += seconds(gap)
        samples.append(Sample(moment, float(bad), float(total)))
    return samples


@given(samples=SAMPLES, cuts=st.lists(st.integers(0, 60)), length=st.integers(10, 120))
def test_any_cut_of_the_stream_gives_the_same(samples: tuple[Sample, ...], cuts: list[int], length: int) -> None:
    """Each piece is fed to the Breach that came back from status, and reaches back only as far as the window needs."""
    whole = judge(Arm(samples), length=seconds(length))
    breach = EMPTY
    for end in [*sorted(cuts), len(samples)]:
        since = breach.last_at and breach.last_at - seconds(length)
        piece = tuple(sample for sample in samples[:end] if since is None or sample.at > since)
        breach = decode(Breach, encode(judge(Arm(piece), breach, length=seconds(length))))
    assert breach == whole


@given(samples=SAMPLES, n=st.integers(0, 59), length=st.integers(10, 120))
def test_more_errors_never_shorten_a_breach(samples: tuple[Sample, ...], n: int, length: int) -> None:
    worse = tuple(Sample(s.at, s.total if i == n else s.bad, s.total) for i, s in enumerate(samples))
    before = judge(Arm(samples), length=seconds(length))
    assert judge(Arm(worse), length=seconds(length)).bad_for >= before.bad_for


@given(samples=SAMPLES)
def test_a_breach_is_never_longer_than_its_data(samples: tuple[Sample, ...]) -> None:
    span = sum((b.at - a.at for a, b in pairwise(samples)), timedelta())
    assert timedelta() <= judge(Arm(samples)).bad_for <= span
