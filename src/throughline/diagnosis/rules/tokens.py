"""Making tokens: streams held up by prompts, weights read from memory, answers longer than they need to be."""

from __future__ import annotations

from throughline.contracts.diagnosis import Evidence, Finding, Lever
from throughline.contracts.measurement import Measurement
from throughline.diagnosis import thresholds as t
from throughline.diagnosis.readings import Seen, at, ms, pct
from throughline.diagnosis.rule import Rule
from throughline.diagnosis.rules.kv_cache import thrash

# Of chunks: below it a step's fixed cost (weights) is most of it.
_SMALLEST_CHUNK = 32
_PRECISIONS = {"f32": "int8", "bf16": "int8", "int8": "int4"}
_GPU_PRECISIONS = {"bf16": "fp8", "fp8": "w4a8_awq", "int8_sq": "w4a8_awq"}


def _chunks(seen: Seen) -> Finding | None:
    steps, mean, median, late = (
        seen.prompt_steps,
        at(seen.run.itl, "mean"),
        at(seen.run.itl, "p50"),
        at(seen.run.itl, "p99"),
    )
    if steps is None or mean is None or median is None or late is None or median <= 0:
        return None
    longest = at(seen.run.engine.step_seconds, "p99")
    if not seen.presses("itl", "tpot", "e2e") or late < t.GAP_SPREAD * median:
        return None
    if steps < t.LEAST_COST or (longest is not None and late > t.GAP_OVER_STEP * longest):
        # Without prompts, or out of the batch altogether: something else holds the streams up.
        return None
    if thrash(seen) is not None:
        # The prompts that streams wait for are those of paused requests, read again.
        return None
    severity = max(0.0, 1 - median / mean)
    levers = _chunk_levers(seen, median, late)
    return Finding(
        name=CHUNKS.name,
        kind="bottleneck",
        summary="Running streams wait while the step reads others' prompts.",
        severity=severity,
        cost="time between tokens",
        arithmetic=f"1 − median gap {ms(median)} / mean gap {ms(mean)} = {pct(severity)}; prompts make the difference",
        evidence=(
            Evidence(
                name="p99 of gaps over their median",
                value=late / median,
                unit="times",
                limit=t.GAP_SPREAD,
                source="with less the pace itself breaks the limit, not single long steps",
            ),
            Evidence(
                name="steps' time with prompt tokens",
                value=steps,
                unit="share",
                limit=t.LEAST_COST,
                source="with fewer of them gaps come from elsewhere",
            ),
        ),
        levers=tuple(levers),
        contradicted_by="gaps stay as long while no prompt comes in",
    )


def _chunk_levers(seen: Seen, median: float, late: float) -> list[Lever]:
    levers = []
    if seen.setting("engine.enable_chunked_context") is False:
        why = "long prompts are cut, and streams get a token beside each piece"
        levers.append(Lever(overrides=("engine.enable_chunked_context=true",), why=why))
    tokens = seen.max_num_tokens
    if tokens is not None and tokens > _SMALLEST_CHUNK:
        wanted = _chunk(seen, tokens, median, late)
        why = "a step reads fewer prompt tokens beside the streams; first tokens come later"
        levers.append(Lever(overrides=(f"engine.max_num_tokens={wanted}",), why=why))
    levers.append(Lever(why="prompts of long and of short requests on engines of their own (disaggregated serving)"))
    return levers


def _chunk(seen: Seen, tokens: int, median: float, late: float) -> int:
    """Prompt tokens of a step that keeps the limit of the gaps, if a step's time grows evenly with them."""
    limit = seen.run.slo.itl_seconds if seen.run.slo is not None else None
    allowed = limit if limit is not None and limit > median else 2 * median
    fitting = tokens * (allowed - median) / (late - median)
    blocks = max(1, min(int(fitting), tokens // 2) // _SMALLEST_CHUNK)
    return blocks * _SMALLEST_CHUNK


def _decode(seen: Seen) -> Finding | None:
    if not seen.presses("itl", "tpot", "e2e") or seen.share("decode") < t.PROMPT_STEPS:
        return None
    used, source = _bandwidth(seen)
    if used is None or used < t.BANDWIDTH:
        return None
    share = seen.share("decode")
    severity = share * min(1.0, used) / 2
    return Finding(
        name=DECODE.name,
        kind="bottleneck",
        summary="Each token waits for the weights and the KV cache to be read from memory.",
        severity=severity,
        cost="latency",
        arithmetic=(
            f"decode {pct(share)} of a request × {pct(min(1.0, used))} of the bandwidth / 2, since weights of half "
            f"the bytes take half the time = {pct(severity)}"
        ),
        evidence=(
            Evidence(name="bandwidth that is used", value=used, unit="share", limit=t.BANDWIDTH, source=source),
            Evidence(
                name="decode in a mean request",
                value=share,
                unit="share",
                limit=t.PROMPT_STEPS,
                source="more of a request than everything else",
            ),
        ),
        levers=tuple(_decode_levers(seen)),
        contradicted_by="weights of half the bytes leave the time of a step as it was: then arithmetic is the limit",
    )


def _bandwidth(seen: Seen) -> tuple[float | None, str]:
    """Share of the bandwidth that decoding draws, and by what it is known."""
    machine = seen.run.machine
    if machine.bandwidth is not None and machine.bandwidth_bound:
        return machine.bandwidth / machine.bandwidth_bound, "measured in the same run; 0.85 is what engines reach"
    bound = seen.bound.decode_step_seconds if seen.bound is not None else None
    step = at(seen.run.itl, "p50")
    if seen.bound is not None and bound is not None and step:
        return bound / step, seen.bound.source
    return None, ""


def _decode_levers(seen: Seen) -> list[Lever]:
    levers = []
    on_gpu = seen.setting("engine.backend") in ("tensorrt", "pytorch")
    precision = (_GPU_PRECISIONS if on_gpu else _PRECISIONS).get(str(seen.setting("engine.precision")))
    if precision is not None:
        why = "fewer bytes of weights for each step; check the gate's score"
        levers.append(Lever(overrides=(f"quant={precision}",), why=why))
    if seen.setting("engine.speculative_config") is None and (seen.run.engine.scheduled or 2) < 2:
        why = "several tokens a pass where the answer repeats its prompt; at one sequence a step it costs little"
        levers.append(Lever(overrides=("engine.speculative_config={decoding_type: NGram}",), why=why))
    places = seen.max_batch_size
    if places is not None and seen.fill is not None and seen.fill >= t.FULL_BATCH:
        why = "more sequences share a pass over the weights: throughput, not a stream's own pace"
        levers.append(Lever(overrides=(f"engine.max_batch_size={2 * places}",), why=why))
    levers.append(Lever(why="shorter answers, or a smaller model"))
    return levers


def _outputs(seen: Seen) -> Finding | None:
    run, before = seen.run, seen.baseline
    tokens = run.output_tokens
    allowed, source = _allowed_tokens(run)
    if before is not None and before.output_tokens > 0:
        grown = before.output_tokens * t.LONGER_OUTPUT
        if tokens > grown and (allowed is None or grown < allowed):
            allowed, source = grown, "a fifth more than the baseline's"
    if allowed is None or tokens <= allowed or not seen.presses("e2e"):
        return None
    severity = seen.share("decode") * (1 - allowed / tokens)
    if severity < t.LEAST_COST:
        return None
    cap = max(1, int(allowed))
    why = "answers that end sooner; say so in the prompt, or cap `max_tokens`"
    return Finding(
        name=OUTPUTS.name,
        kind="bottleneck",
        summary="Answers are longer than the limit of a whole request leaves time for.",
        severity=severity,
        cost="latency",
        arithmetic=(
            f"decode {pct(seen.share('decode'))} of a request × (1 − {allowed:.0f} / {tokens:.0f} tokens) = "
            f"{pct(severity)}"
        ),
        evidence=(
            Evidence(name="tokens of a mean answer", value=tokens, unit="tokens", limit=allowed, source=source),
            Evidence(name="decode in a mean request", value=seen.share("decode"), unit="share"),
        ),
        levers=(Lever(overrides=(f"workload.output_tokens={cap}",), why=why),),
        contradicted_by="answers are cut off (`finish_reason: length`) or lose their score at that length",
    )


def _allowed_tokens(run: Measurement) -> tuple[float | None, str]:
    """Tokens that fit the limit of a whole request at the measured pace, where the pace itself keeps its limit."""
    slo, pace, first = run.slo, at(run.tpot, "mean"), at(run.ttft, "mean")
    if slo is None or slo.e2e_seconds is None or not pace or first is None:
        return None, ""
    over = run.over(slo)
    if {"ttft_seconds", "itl_seconds", "tpot_seconds"} & set(over):
        # It is not the length that breaks the limit.
        return None, ""
    return max(1.0, (slo.e2e_seconds - first) / pace), "what e2e_seconds leaves after the first token, at this pace"


CHUNKS = Rule(
    "chunk-interference",
    "running streams wait while the step reads others' prompts",
    ("itl", "engine.decoding_share"),
    _chunks,
)
DECODE = Rule(
    "decode-bandwidth-bound",
    "each token waits for weights and KV cache to be read from memory",
    ("phases", "machine.bandwidth_bound|bound"),
    _decode,
)
OUTPUTS = Rule(
    "long-outputs",
    "answers are longer than the limit of a whole request leaves time for",
    ("phases", "tpot", "slo|baseline"),
    _outputs,
)
