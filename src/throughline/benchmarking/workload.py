"""From a workload to the sessions that are sent: lengths, shared beginnings, turns, tenants, and who leaves early."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from throughline.benchmarking.lengths import Lengths
from throughline.benchmarking.prompts import Messages, Prompts
from throughline.benchmarking.scenario import Render, marked, marks
from throughline.benchmarking.traces import TraceRow
from throughline.contracts.benchmark import BenchRequest
from throughline.contracts.errors import ConfigError
from throughline.contracts.workload import Workload

Session = list[BenchRequest]
# Tokens of a block that a Mooncake trace names.
_BLOCK = 512
# A message has a few tokens when many streams run: who leaves must do so before the answer is whole.
_TOKENS_PER_MESSAGE = 8


@dataclass(frozen=True)
class Requests:
    """What is sent, and the distributions that its lengths are from.

    Attributes:
        sessions: Turns of one user each.
        inputs: Lengths of first prompts; None for those of a dataset or a trace.
        outputs: Lengths of answers; None likewise.
    """

    sessions: list[Session]
    inputs: Lengths | None = None
    outputs: Lengths | None = None


def check_context(workload: Workload, max_seq_len: int) -> None:
    """Refuses a workload whose longest request is longer than the engine's context.

    Raises:
        ConfigError: With settings that fit.
    """
    longest = workload.longest_input_tokens + workload.longest_output_tokens
    if longest <= max_seq_len:
        return
    output = min(workload.longest_output_tokens, max(1, max_seq_len // 4))
    raise ConfigError(
        "workload is longer than the engine's context",
        where="workload.longest_input_tokens + workload.longest_output_tokens",
        seen=f"{longest} tokens, max_seq_len={max_seq_len}",
        fix=f"set workload.longest_input_tokens={max_seq_len - output} workload.longest_output_tokens={output} (and "
        "input_tokens and output_tokens below them), or build an engine with a larger engine.max_seq_len",
    )


def synthetic(workload: Workload, prompts: Prompts, count: int, *, seed: int, texts: str) -> Requests:
    """Returns sessions of prompts of just the lengths that are asked for.

    Args:
        workload: What is asked for.
        prompts: Writes the prompts.
        count: Sessions; one whose next prompt would be longer than the longest ends there.
        seed: Seed of everything but the words, so that two targets get requests of one shape.
        texts: Seed of the words: with another one no cache knows them.
    """
    rng = np.random.default_rng(seed)
    beginnings = [_beginning(workload, prompts, f"{texts}/prefix/{i}") for i in range(workload.shared_prefixes)]
    inputs = Lengths(
        workload.first_input_tokens,
        workload.input_cv,
        workload.longest_input_tokens,
        least=max(prompts.shortest(beginning) for beginning in beginnings),
    )
    outputs = Lengths(workload.output_tokens, workload.output_cv, workload.longest_output_tokens)
    tokens = inputs.draw(count, rng)
    answers = outputs.draw(count * workload.turns, rng).reshape(count, workload.turns)
    chosen = rng.integers(0, workload.shared_prefixes, count)
    sessions = [
        _session(workload, prompts, beginnings[chosen[i]], int(tokens[i]), answers[i].tolist(), f"{texts}/{i}")
        for i in range(count)
    ]
    return Requests(_with_people(workload, sessions, seed), inputs, outputs)


def replayed(workload: Workload, prompts: Prompts, rows: Sequence[TraceRow], *, seed: int, texts: str) -> Requests:
    """Returns one session a row of a trace; rows that name blocks share the text of equal ones."""
    sessions = []
    for number, row in enumerate(rows):
        if row.blocks:
            words = [word for block in row.blocks for word in prompts.words(_BLOCK, f"{texts}/block/{block}")]
        else:
            words = prompts.words(row.input_tokens, f"{texts}/{number}")
        messages, ids = prompts.fitted([], row.input_tokens, words)
        sessions.append([BenchRequest("trace", messages, [], ids, row.output_tokens)])
    return Requests(_with_people(workload, sessions, seed))


def questions(
    workload: Workload, pool: Sequence[BenchRequest], render: Render, count: int, *, seed: int, texts: str
) -> Requests:
    """Returns one session for each of `count` questions drawn from a pool, each with a mark of its own."""
    rng = random.Random(seed)
    numbers = marks(random.Random(texts).randrange(2**32))
    sessions = [[marked(rng.choice(pool), next(numbers), render)] for _ in range(count)]
    return Requests(_with_people(workload, sessions, seed))


def _beginning(workload: Workload, prompts: Prompts, seed: str) -> Messages:
    if not workload.shared_prefix_tokens:
        return []
    return [{"role": "system", "content": prompts.text(workload.shared_prefix_tokens, seed)}]


def _session(
    workload: Workload, prompts: Prompts, beginning: Messages, tokens: int, answers: Sequence[int], texts: str
) -> Session:
    messages = beginning
    session: Session = []
    for turn, answer in enumerate(answers):
        if turn:
            # Not what the engine has said but a text of that length: so every target gets the same prompts.
            said = prompts.text(answers[turn - 1], f"{texts}/answer/{turn}")
            messages = [*messages, {"role": "assistant", "content": said}]
            tokens += answers[turn - 1] + workload.turn_tokens
            if tokens > workload.longest_input_tokens:
                break
        messages, ids = prompts.fitted(messages, tokens, prompts.words(tokens, f"{texts}/{turn}"))
        session.append(BenchRequest("synthetic", messages, [], ids, answer))
    return session


def _with_people(workload: Workload, sessions: Sequence[Session], seed: int) -> list[Session]:
    """Names tenants and says who leaves early: just the shares that are asked for, at random places."""
    rng = random.Random(f"{seed}/people")
    tenants = _shares(workload.tenants, len(sessions), rng)
    named = [
        [replace(request, tenant=tenant) for request in session]
        for session, tenant in zip(sessions, tenants, strict=True)
    ]
    places = [(i, k) for i, session in enumerate(named) for k in range(len(session))]
    for i, k in rng.sample(places, round(workload.cancelled_share * len(places))):
        most = max(1, named[i][k].max_tokens // _TOKENS_PER_MESSAGE)
        named[i][k] = replace(named[i][k], cancel_after=rng.randint(1, most))
    return named


def _shares(shares: Mapping[str, float], count: int, rng: random.Random) -> list[str]:
    """Names by their shares, as near as whole numbers come, in random order."""
    if not shares:
        return [""] * count
    wanted = {name: share * count for name, share in shares.items()}
    counts = {name: int(value) for name, value in wanted.items()}
    for name in sorted(wanted, key=lambda name: counts[name] - wanted[name])[: count - sum(counts.values())]:
        counts[name] += 1
    names = [name for name, number in counts.items() for _ in range(number)]
    rng.shuffle(names)
    return names
