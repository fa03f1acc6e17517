"""Reading prompts: the engine's main work, or work that the prefix cache would have saved."""

from __future__ import annotations

from throughline.contracts.diagnosis import Evidence, Finding, Lever
from throughline.diagnosis import thresholds as t
from throughline.diagnosis.readings import Seen, ms, pct
from throughline.diagnosis.rule import Rule
from throughline.diagnosis.rules.batch import is_full

# Prompt tokens a step beyond which a pass over the weights costs no less a token: the arithmetic is the limit then.
# Of processors 64 (docs/log.md, "How many tokens a step"); of GPUs operations over bytes a second, 295 on H100.
_WIDE_STEP = {"cpu": 64}
_WIDE_STEP_OF_GPUS = 512


def _prefill(seen: Seen) -> Finding | None:
    steps = seen.prompt_steps
    if steps is None or steps < t.PROMPT_STEPS or not seen.presses("ttft", "e2e"):
        return None
    # With places free, a queue is one for the steps' tokens, which prompts take.
    waits_for_prompts = not is_full(seen)
    phases = ("queue", "prefill") if waits_for_prompts else ("prefill",)
    cost = seen.share(*phases)
    # What a warm prefix cache would save is a finding of its own.
    missed = _reuse(seen)
    left = cost - (missed.severity if missed is not None else 0.0)
    if left < t.LEAST_COST:
        return None
    named = " and queue behind prompts" if waits_for_prompts and seen.phase("queue") else ""
    return Finding(
        name=PREFILL.name,
        kind="bottleneck",
        summary="The engine mainly reads prompts.",
        severity=left,
        cost="latency",
        arithmetic=f"prefill{named} {ms(seen.phase(*phases))} of a mean request's {ms(seen.e2e)} = {pct(cost)}"
        + (f", of which a prefix cache would save {pct(cost - left)}" if left < cost else ""),
        evidence=(
            Evidence(
                name="steps' time with prompt tokens",
                value=steps,
                unit="share",
                limit=t.PROMPT_STEPS,
                source="more of the engine's time than everything else",
            ),
            Evidence(
                name="prefill in a mean request",
                value=cost,
                unit="share",
                limit=t.LEAST_COST,
                source="any phase under a tenth of a request moves no limit's verdict beyond the spread between runs",
            ),
            Evidence(name="prompt tokens of a mean request", value=seen.run.input_tokens, unit="tokens"),
        ),
        levers=tuple(_prefill_levers(seen)),
        contradicted_by="prompts of half the length leave the time to the first token as it was",
    )


def _prefill_levers(seen: Seen) -> list[Lever]:
    levers = []
    if seen.threads is not None:
        why = f"{seen.threads} of {seen.run.machine.cores} processors compute; 0 takes all"
        levers.append(Lever(overrides=("engine.num_threads=0",), why=why))
    tokens = seen.max_num_tokens
    wide = _WIDE_STEP.get(str(seen.setting("engine.backend")), _WIDE_STEP_OF_GPUS)
    if tokens is not None and tokens < min(wide, seen.run.input_tokens):
        why = "fewer passes over the weights for a prompt; gaps between tokens grow with it"
        levers.append(Lever(overrides=(f"engine.max_num_tokens={wide}",), why=why))
    if seen.setting("engine.enable_block_reuse") is False and _shared(seen) > 0:
        why = "the tokens that prompts begin with in common are read once"
        levers.append(Lever(overrides=("engine.enable_block_reuse=true",), why=why))
    if seen.setting("engine.backend") in ("tensorrt", "pytorch") and seen.setting("engine.precision") == "bf16":
        why = "tensor cores do twice the arithmetic in FP8; check the gate's score"
        levers.append(Lever(overrides=("quant=fp8",), why=why))
    half = max(1, round(seen.run.input_tokens / 2))
    why = "shorter prompts: fewer documents, less history"
    levers.append(Lever(overrides=(f"workload.input_tokens={half}",), why=why))
    return levers


def _shared(seen: Seen) -> float:
    """Share of the prompts' tokens that some earlier prompt began with, by the workload."""
    length = seen.run.workload.get("input_tokens") or seen.run.input_tokens
    return min(1.0, (seen.run.workload.get("shared_prefix_tokens") or 0) / length) if length else 0.0


def _expected(seen: Seen) -> tuple[float, str]:
    """Share that a prefix cache could have, and who says so."""
    before = seen.baseline
    if before is not None and before.engine.prompt_tokens and before.engine.reused_tokens is not None:
        return before.engine.reused_tokens / before.engine.prompt_tokens, "the baseline's share"
    return _shared(seen), "what the workload's prompts begin with in common"


def _reuse(seen: Seen) -> Finding | None:
    engine = seen.run.engine
    expected, source = _expected(seen)
    if engine.reused_tokens is not None and engine.prompt_tokens:
        reused = min(1.0, engine.reused_tokens / engine.prompt_tokens)
    elif seen.setting("engine.enable_block_reuse") is False:
        reused = 0.0
    else:
        return None
    missed = expected - reused
    if missed < t.MISSED_REUSE:
        return None
    # What is left of the prefill was for the tokens that were not reused.
    severity = seen.share("prefill") * missed / (1 - reused)
    return Finding(
        name=REUSE.name,
        kind="waste",
        summary="Prompts are read again that begin as earlier ones did.",
        severity=severity,
        cost="latency",
        arithmetic=(
            f"prefill {pct(seen.share('prefill'))} of a request × missed {pct(missed)} / read {pct(1 - reused)} of "
            f"the prompts' tokens = {pct(severity)}; a queue behind them comes on top"
        ),
        evidence=(
            Evidence(name="reused prompt tokens", value=reused, unit="share", limit=expected, source=source),
            Evidence(
                name="missed", value=missed, unit="share", limit=t.MISSED_REUSE, source="below it others cost more"
            ),
        ),
        levers=tuple(_reuse_levers(seen)),
        contradicted_by="the first token comes no sooner with the cache warm",
    )


def _reuse_levers(seen: Seen) -> list[Lever]:
    if seen.setting("engine.enable_block_reuse") is False:
        why = "costs no memory: only blocks that nobody needs are kept"
        return [Lever(overrides=("engine.enable_block_reuse=true",), why=why)]
    levers = []
    size = seen.number("engine.kv_cache_bytes")
    if size is not None:
        why = "blocks of common beginnings are dropped before they are asked for again"
        levers.append(Lever(overrides=(f"engine.kv_cache_bytes={2 * size}",), why=why))
    levers.append(
        Lever(why="put what changes (dates, ids, documents) behind what does not: a prefix ends at the first")
    )
    return levers


PREFILL = Rule(
    "prefill-bound",
    "the engine mainly reads prompts",
    ("phases", "engine.decoding_share"),
    _prefill,
)
REUSE = Rule(
    "prefix-reuse-miss",
    "prompts are read again that begin as earlier ones did",
    ("phases", "engine.reused_tokens|settings"),
    _reuse,
)
