"""Token buckets against a twin that counts millisecond by millisecond, and against the promise of a limit."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.gateway.limits import PARTS, Bucket, duration, full, stored

STEPS = st.lists(st.tuples(st.integers(0, 900), st.integers(0, 40)), max_size=30)


class SlowBucket:
    """Fills by a minute's sixty-thousandth at every millisecond, in fractions."""

    def __init__(self, limit: int) -> None:
        self.limit, self.level = Fraction(limit), Fraction(limit)

    def tick(self, milliseconds: int) -> None:
        for _ in range(milliseconds):
            self.level = min(self.limit, self.level + self.limit / 60_000)

    def take(self, amount: int) -> bool:
        if amount > self.level:
            return False
        self.level -= amount
        return True


@given(st.integers(1, 100_000), STEPS)
def test_a_bucket_is_its_slow_twin(limit: int, steps: list[tuple[int, int]]) -> None:
    now = 1_800_000_000_000
    fast, slow = full(limit, now), SlowBucket(limit)
    for wait, percent in steps:
        now += wait
        slow.tick(wait)
        fast = stored(limit, fast.level, fast.at, now)
        amount = limit * percent // 100
        assert (fast.wait_ms(amount) == 0) == slow.take(amount)
        if fast.wait_ms(amount) == 0:
            fast = fast.take(amount)
        assert Fraction(fast.level, PARTS) == slow.level


@given(st.integers(1, 10**9), st.lists(st.tuples(st.integers(0, 90_000), st.integers(1, 10**9)), max_size=40))
def test_no_minute_and_no_other_time_gives_more_than_the_bucket_and_what_came_in(
    limit: int, wishes: list[tuple[int, int]]
) -> None:
    now, taken = 0, []
    bucket = full(limit, now)
    for wait, amount in wishes:
        now += wait
        bucket = bucket.refilled(now)
        if bucket.wait_ms(amount) == 0:
            bucket = bucket.take(amount)
            taken.append((now, amount))
    for first, (start, _) in enumerate(taken):
        total = 0
        for end, amount in taken[first:]:
            total += amount
            assert total <= limit + Fraction(limit * (end - start), 60_000)


@given(st.integers(1, 10**9), st.integers(0, 10**14), st.integers(1, 10**9))
def test_after_the_wait_it_is_there_and_a_millisecond_before_it_is_not(limit: int, level: int, amount: int) -> None:
    bucket = Bucket(limit, min(level, limit * PARTS), 5)
    amount = min(amount, limit)
    wait = bucket.wait_ms(amount)
    bucket.refilled(5 + wait).take(amount)
    if wait:
        with pytest.raises(ValueError, match="asked for"):
            bucket.refilled(5 + wait - 1).take(amount)
    assert bucket.refilled(5 + bucket.reset_ms).level == limit * PARTS


def test_edges() -> None:
    bucket = full(60, 1000).take(1)
    # One of 60 a minute comes back within a second.
    assert (bucket.remaining, bucket.reset_ms, bucket.wait_ms(60)) == (59, 1000, 1000)
    # A clock that went back neither fills nor empties it.
    assert bucket.refilled(500) == bucket
    # Giving back too much fills it and no more.
    assert bucket.give(100).level == 60 * PARTS
    # A limit that was lowered meanwhile.
    assert stored(10, bucket.level, bucket.at, 1000).remaining == 10


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0ms"), (12, "12ms"), (1000, "1s"), (7660, "7.66s"), (60_000, "1m0s"), (61_005, "1m1.005s")],
)
def test_durations_as_openai_writes_them(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text
