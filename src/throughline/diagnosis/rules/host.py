"""Processor time before and behind the engine: the tokenizer, and the gateway's own process."""

from __future__ import annotations

from throughline.contracts.diagnosis import Evidence, Finding, Lever
from throughline.diagnosis import thresholds as t
from throughline.diagnosis.readings import Seen, ms, pct
from throughline.diagnosis.rule import Rule

_TENTH = "any phase under a tenth of a request moves no limit's verdict beyond the spread between runs"


def _workers(seen: Seen) -> int:
    return seen.number("gateway.workers") or 1


def _more_workers(seen: Seen) -> Lever:
    why = "each worker is a process with an interpreter of its own; there must be cores for them"
    return Lever(overrides=(f"gateway.workers={2 * _workers(seen)}",), why=why)


def _tokenizer(seen: Seen) -> Finding | None:
    cost = seen.share("tokenize", "detokenize")
    if cost < t.LEAST_COST:
        return None
    return Finding(
        name=TOKENIZER.name,
        kind="waste",
        summary="Turning text into tokens and back takes a good part of a request.",
        severity=cost,
        cost="latency",
        arithmetic=f"{ms(seen.phase('tokenize', 'detokenize'))} of a mean request's {ms(seen.e2e)} = {pct(cost)}",
        evidence=(
            Evidence(name="tokenizer in a mean request", value=cost, unit="share", limit=t.LEAST_COST, source=_TENTH),
            Evidence(name="prompt tokens of a mean request", value=seen.run.input_tokens, unit="tokens"),
        ),
        levers=(_more_workers(seen), Lever(why="shorter prompts, or a tokenizer in Rust if this one is in Python")),
        contradicted_by="`recipes.profile` shows little time in `tokenizers`",
    )


def _gateway(seen: Seen) -> Finding | None:
    busy = seen.run.machine.busy_cores.get("gateway")
    if busy is None:
        return None
    used = min(1.0, busy / _workers(seen))
    if used < t.BUSY_PROCESS:
        return None
    # With its loop always busy, what a client waits for beyond the engine is the gateway's as well.
    parts = ("gateway", "tokenize", "detokenize", "network")
    cost = seen.share(*parts)
    severity = max(cost, 1 - t.BUSY_PROCESS / used)
    return Finding(
        name=GATEWAY.name,
        kind="waste",
        summary="The gateway's processes have no processor time left.",
        severity=severity,
        cost="latency",
        arithmetic=(
            f"gateway, tokenizer and the way back {ms(seen.phase(*parts))} of a mean request's {ms(seen.e2e)} = "
            f"{pct(cost)}"
        ),
        evidence=(
            Evidence(
                name="processor time of each worker",
                value=used,
                unit="share",
                limit=t.BUSY_PROCESS,
                source="a queue at 85 % is 5.7 long on average (M/M/1)",
            ),
        ),
        levers=(
            _more_workers(seen),
            Lever(
                overrides=("serve.max_responses_per_second=200", "serve.stream_interval_tokens=16"),
                why="fewer messages carry the same tokens; each costs the same however long it is",
            ),
        ),
        contradicted_by="a second worker leaves requests a second and the first token's time as they were",
    )


TOKENIZER = Rule("tokenizer-cpu", "tokenising takes a good part of a request", ("phases.tokenize",), _tokenizer)
GATEWAY = Rule(
    "gateway-cpu", "the gateway's processes have no processor time left", ("machine.busy_cores.gateway",), _gateway
)
