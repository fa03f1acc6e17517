"""The order in which waiting requests are handed out, against a slow twin that computes each one's standing anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.triton.waiting import WaitingQueue

AGING = 4.0
# (seconds since the last event, priority of a request that comes; None takes the next one out)
EVENTS = st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(-3, 3)), max_size=60)


@given(EVENTS)
def test_who_is_next_has_the_lowest_priority_after_what_waiting_made_up_for(
    events: list[tuple[int, int | None]],
) -> None:
    queue: WaitingQueue[int] = WaitingQueue(AGING)
    twin: dict[str, tuple[float, int]] = {}
    now = 0.0
    for number, (pause, priority) in enumerate(events):
        now += pause
        if priority is not None:
            queue.push(str(number), number, arrived=now, priority=priority)
            twin[str(number)] = (now, priority)
        elif twin:
            key, item = queue.pop()
            best = min(twin, key=lambda k: (twin[k][1] - (now - twin[k][0]) / AGING, int(k)))
            assert (key, item) == (best, int(best))
            del twin[key]
        assert len(queue) == len(twin)


def test_no_stream_of_urgent_requests_starves_one_that_is_not() -> None:
    queue: WaitingQueue[None] = WaitingQueue(AGING)
    queue.push("patient", None, arrived=0.0, priority=3)
    served = []
    for second in range(30):
        queue.push(f"urgent{second}", None, arrived=float(second), priority=0)
        served.append(queue.pop()[0])
    # The one that comes at 12 s stands where waiting has brought it, and came later.
    assert served.index("patient") == 12


def test_what_was_taken_out_does_not_come_again() -> None:
    queue: WaitingQueue[str] = WaitingQueue(AGING)
    for key in "abc":
        queue.push(key, key.upper(), arrived=0.0, priority=0)
    assert queue.remove("a") == "A"
    assert queue.remove("a") is None
    assert queue.pop() == ("b", "B")
    queue.clear()
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()
