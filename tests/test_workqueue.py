"""The work queue in virtual time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import looptime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.workqueue import WorkQueue

pytestmark = pytest.mark.looptime

Work = Callable[[str], Awaitable[None]]


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def working(queue: WorkQueue[str], work: Work, workers: int = 2) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run(work, workers=workers))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Diary:
    """Work that takes a second and writes down (moment of start, key)."""

    def __init__(self) -> None:
        self.began_at = now()
        self.entries: list[tuple[float, str]] = []

    async def work(self, key: str) -> None:
        self.entries.append((round(now() - self.began_at, 3), key))
        await asyncio.sleep(1)


async def test_many_adds_are_one_run() -> None:
    queue, diary = WorkQueue[str](), Diary()
    for _ in range(5):
        queue.add("a")
    assert queue.depth == 1
    async with working(queue, diary.work):
        await asyncio.sleep(5)
    assert diary.entries == [(0, "a")]
    assert queue.depth == 0


async def test_a_key_has_one_worker_and_no_event_is_lost() -> None:
    queue, diary = WorkQueue[str](), Diary()
    async with working(queue, diary.work):
        queue.add("a")
        await asyncio.sleep(0.5)
        queue.add("a")
        queue.add("a")
        queue.add("b")
        await asyncio.sleep(5)
    assert diary.entries == [(0, "a"), (0.5, "b"), (1, "a")]


async def test_no_more_workers_than_asked_for() -> None:
    queue, diary = WorkQueue[str](), Diary()
    for key in "abcde":
        queue.add(key)
    async with working(queue, diary.work, workers=2):
        await asyncio.sleep(0.5)
        assert queue.depth == 3
        await asyncio.sleep(5)
    assert diary.entries == [(0, "a"), (0, "b"), (1, "c"), (1, "d"), (2, "e")]


async def test_urgent_keys_go_first() -> None:
    queue, diary = WorkQueue[str](), Diary()
    for key in "abc":
        queue.add(key)
    queue.add("c", urgent=True)
    queue.add("d", urgent=True)
    assert queue.depth == 4
    async with working(queue, diary.work, workers=1):
        await asyncio.sleep(1.5)  # d is being worked on
        queue.add("d", urgent=True)
        await asyncio.sleep(5)
    assert [key for _, key in diary.entries] == ["c", "d", "d", "a", "b"]


async def test_of_several_moments_the_earliest_counts() -> None:
    queue, diary = WorkQueue[str](), Diary()
    queue.add_after("a", timedelta(seconds=9))
    queue.add_after("a", timedelta(seconds=3))
    queue.add_after("a", timedelta(seconds=6))
    queue.add_after("b", timedelta(seconds=9))
    queue.add("b")
    queue.add_after("c", timedelta(seconds=-1))
    async with working(queue, diary.work):
        await asyncio.sleep(20)
    assert diary.entries == [(0, "b"), (0, "c"), (3, "a")]


async def test_a_delayed_urgent_key_stays_urgent() -> None:
    queue, diary = WorkQueue[str](), Diary()
    queue.add_after("late", timedelta(seconds=0.5), urgent=True)
    queue.add_after("late", timedelta(seconds=0.7))
    for key in "abc":
        queue.add(key)
    async with working(queue, diary.work, workers=1):
        await asyncio.sleep(10)
    assert [key for _, key in diary.entries] == ["a", "late", "b", "c"]


async def test_back_off_doubles_is_bounded_and_is_forgotten() -> None:
    queue = WorkQueue[str](first=timedelta(seconds=1), most=timedelta(seconds=10))
    waits = [queue.retry("a").total_seconds() for _ in range(40)]
    for wait, longest in zip(waits, [1, 2, 4, 8] + [10] * 36, strict=True):
        assert longest / 2 <= wait <= longest
    assert len(set(waits[4:])) > 30, "no two keys come back at the same moment"
    assert queue.retry("b").total_seconds() <= 1, "each key has its own"
    queue.forget("a")
    assert queue.retry("a").total_seconds() <= 1


async def test_a_retry_waits_as_long_as_the_server_asked() -> None:
    queue, diary = WorkQueue[str](), Diary()
    assert queue.retry("a", at_least=timedelta(seconds=7)) == timedelta(seconds=7)
    async with working(queue, diary.work):
        await asyncio.sleep(20)
    assert diary.entries == [(7, "a")]


async def test_work_that_raises_is_tried_again_and_stops_no_other() -> None:
    queue, runs = WorkQueue[str](first=timedelta(seconds=1)), Counter[str]()

    async def work(key: str) -> None:
        runs[key] += 1
        if key == "bad" and runs[key] < 4:
            raise ValueError("odd")
        queue.forget(key)

    async with working(queue, work, workers=1):
        queue.add("bad")
        queue.add("good")
        await asyncio.sleep(30)
    assert runs == {"bad": 4, "good": 1}


STEPS = st.tuples(
    st.sampled_from(["add", "add_after", "retry", "forget"]), st.sampled_from("abc"), st.integers(0, 50), st.booleans()
)


@given(st.lists(st.tuples(STEPS, st.integers(0, 30)), max_size=40), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_whatever_happens_every_key_is_worked_on_after_its_last_event(
    steps: list[tuple[tuple[str, str, int, bool], int]], workers: int
) -> None:
    """And by one worker at a time, by no more workers than there are, and never without an event."""
    events, starts, busy = dict[str, float](), dict[str, float](), Counter[str]()
    runs, added = Counter[str](), Counter[str]()

    async def scenario() -> None:
        queue = WorkQueue[str](first=timedelta(seconds=1), most=timedelta(seconds=4))

        async def work(key: str) -> None:
            busy[key] += 1
            assert busy[key] == 1
            assert busy.total() <= workers
            runs[key] += 1
            starts[key] = now()
            await asyncio.sleep(0.7)
            busy[key] -= 1

        async with working(queue, work, workers):
            for (step, key, delay, urgent), pause in steps:
                if step == "add":
                    queue.add(key, urgent=urgent)
                elif step == "add_after":
                    queue.add_after(key, timedelta(seconds=delay / 10), urgent=urgent)
                elif step == "retry":
                    queue.retry(key, urgent=urgent)
                else:
                    queue.forget(key)
                if step != "forget":
                    events[key] = now()
                    added[key] += 1
                await asyncio.sleep(pause / 10)
            await asyncio.sleep(100)
            assert queue.depth == 0

    loop = looptime.new_event_loop()
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()
    assert not +busy
    for key, moment in events.items():
        assert starts[key] >= moment
    assert all(runs[key] <= added[key] for key in runs)
