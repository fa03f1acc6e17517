"""Requests that wait for a place in the batch: because it is full, or although it is not."""

from __future__ import annotations

from throughline.contracts.diagnosis import Evidence, Finding, Lever
from throughline.diagnosis import thresholds as t
from throughline.diagnosis.readings import Seen, ms, pct
from throughline.diagnosis.rule import Rule

_PHASE = "any phase under a tenth of a request moves no limit's verdict beyond the spread between runs"


def queue_evidence(seen: Seen) -> list[Evidence]:
    """Evidence that requests wait, for every rule about why they do."""
    waiting, queued = seen.run.engine.waiting, seen.share("queue")
    found = [Evidence(name="queue in a mean request", value=queued, unit="share", limit=t.LEAST_COST, source=_PHASE)]
    if waiting is not None:
        source = "below it the queue is empty most of the time"
        found.append(
            Evidence(name="requests that wait", value=waiting, unit="requests", limit=t.WAITING, source=source)
        )
    return found


def waits(seen: Seen) -> bool:
    """Whether requests wait for the engine for long enough to matter."""
    waiting = seen.run.engine.waiting
    return seen.share("queue") >= t.LEAST_COST and (waiting is None or waiting >= t.WAITING)


def is_full(seen: Seen) -> bool:
    """Whether the batch's places are taken; so it is said of an engine that does not tell."""
    return seen.fill is None or seen.fill >= t.FULL_BATCH


def kv_is_short(seen: Seen) -> bool:
    """Whether the KV cache was filled to where it holds requests up."""
    fullest = seen.run.engine.kv_cache_usage_max
    return fullest is not None and fullest >= t.KV_FULL


def prompts_lead(seen: Seen) -> bool:
    """Whether the engine's steps are mainly about prompts, so that what waits, waits for those."""
    return seen.prompt_steps is not None and seen.prompt_steps >= t.PROMPT_STEPS


def queue_arithmetic(seen: Seen) -> str:
    """How the cost of a queue is reckoned."""
    return f"queue {ms(seen.phase('queue'))} of a mean request's {ms(seen.e2e)} = {pct(seen.share('queue'))}"


def _queueing(seen: Seen) -> Finding | None:
    # A cache that is full while all places are taken holds nobody up that a place would not.
    if not (waits(seen) and is_full(seen) and seen.presses("ttft", "e2e")):
        return None
    evidence = queue_evidence(seen)
    if seen.fill is not None:
        source = "a place is free for a step between two requests"
        evidence.append(
            Evidence(name="taken places of the batch", value=seen.fill, unit="share", limit=t.FULL_BATCH, source=source)
        )
    places = seen.max_batch_size
    levers = []
    if places is not None and not kv_is_short(seen):
        why = "more sequences share a pass over the weights; each token takes longer, so watch ITL"
        levers.append(Lever(overrides=(f"engine.max_batch_size={_wanted(seen, places)}",), why=why))
    why = "where more places only move the wait from the queue into the steps: fewer requests at a time, or a replica"
    levers.append(Lever(overrides=_lighter(seen), why=why))
    return Finding(
        name=QUEUEING.name,
        kind="bottleneck",
        summary="Requests wait for a place in a batch that is full.",
        severity=seen.share("queue"),
        cost="latency",
        arithmetic=queue_arithmetic(seen),
        evidence=tuple(evidence),
        levers=tuple(levers),
        contradicted_by="a larger max_batch_size leaves queue and prefill together as long as they were",
    )


def _wanted(seen: Seen, places: int) -> int:
    """Places for those that run and wait, a power of two of the present ones and four times them at most."""
    waiting = seen.run.engine.waiting or 0.0
    return places * (4 if waiting > places else 2)


def _lighter(seen: Seen) -> tuple[str, ...]:
    arrivals = seen.run.workload.get("arrivals") or {}
    rate, users = arrivals.get("requests_per_second"), arrivals.get("users")
    if rate and arrivals.get("process") != "closed":
        return (f"workload.arrivals.requests_per_second={seen.run.requests_per_second.value * 0.9:.3g}",)
    if users and arrivals.get("process") == "closed" and users > 1:
        return (f"workload.arrivals.users={max(1, users // 2)}",)
    return ()


def _starvation(seen: Seen) -> Finding | None:
    fullest = seen.run.engine.kv_cache_usage_max
    if seen.fill is None or fullest is None or not waits(seen) or prompts_lead(seen):
        return None
    if is_full(seen) or fullest >= t.KV_IDLE:
        return None
    severity = min(seen.share("queue"), 1.0 - seen.fill)
    levers = []
    if seen.setting("engine.capacity_scheduler_policy") == "guaranteed_no_evict":
        why = "starts requests by what the cache holds, not by the longest answer they may give"
        levers.append(Lever(overrides=("engine.capacity_scheduler_policy=max_utilization",), why=why))
    if seen.setting("serve.gpu.batch_scheduler_policy") == "guaranteed_no_evict":
        why = "the same for TensorRT-LLM"
        levers.append(Lever(overrides=("serve.gpu.batch_scheduler_policy=max_utilization",), why=why))
    levers.append(Lever(why="ask for no more `max_tokens` than answers have: room is booked for all of them"))
    return Finding(
        name=STARVATION.name,
        kind="waste",
        summary="Requests wait although the batch has places and the KV cache has room.",
        severity=severity,
        cost="throughput",
        arithmetic=f"the lesser of free places, 1 − {pct(seen.fill)}, and of the queue's {pct(seen.share('queue'))}",
        evidence=(
            *queue_evidence(seen),
            Evidence(
                name="taken places of the batch",
                value=seen.fill,
                unit="share",
                limit=t.FULL_BATCH,
                source="a place is free for a step between two requests",
            ),
            Evidence(
                name="KV cache at its fullest",
                value=fullest,
                unit="share",
                limit=t.KV_IDLE,
                source="above it a request of the mean length may not fit",
            ),
        ),
        levers=tuple(levers),
        contradicted_by="places stay free when nothing is booked ahead: then requests come in too unevenly",
    )


QUEUEING = Rule(
    "queueing",
    "requests wait for a place in a full batch",
    ("phases",),
    _queueing,
)
STARVATION = Rule(
    "batch-starvation",
    "requests wait although there are places and room in the KV cache",
    ("phases", "engine.waiting", "engine.scheduled", "engine.kv_cache_usage_max"),
    _starvation,
)
