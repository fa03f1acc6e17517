"""Sends a load with asyncio: a task for each session that is due, or for each user of a closed loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace

from throughline.contracts.benchmark import BenchRequest, Load, RequestRecord

# Sends one request; `due` is when it should leave, None for now.
Send = Callable[[BenchRequest, float | None, Load], Awaitable[RequestRecord]]


async def run(load: Load, send: Send) -> tuple[float, list[RequestRecord]]:
    """Returns when the load began, on the clock of `time.perf_counter`, and its records."""
    records: list[RequestRecord] = []
    began = time.perf_counter()
    end = began + load.seconds if load.seconds is not None else float("inf")

    async def session(number: int, due: float | None) -> None:
        for turn, request in enumerate(load.sessions[number]):
            if turn:
                due = await _think(load)
                if time.perf_counter() >= end:
                    return
            records.append(replace(await send(request, due, load), session=number, turn=turn))

    async def user(untaken: deque[int]) -> None:
        while untaken and time.perf_counter() < end:
            await session(untaken.popleft(), None)
            if untaken:
                await _think(load)

    async with asyncio.TaskGroup() as group:
        if load.due is None:
            untaken = deque(range(len(load.sessions)))
            for _ in range(load.users):
                group.create_task(user(untaken))
        else:
            for number, due in enumerate(load.due):
                # Not a timer for each: those of equal times would leave in any order.
                await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
                group.create_task(session(number, began + due))
    return began, records


async def _think(load: Load) -> float | None:
    """Waits as long as a reader does; returns when that was over, None if there is nothing to wait for."""
    if not load.think_seconds:
        return None
    due = time.perf_counter() + load.think_seconds
    await asyncio.sleep(load.think_seconds)
    return due
