"""Summary records: a ticket or a short log, and one sentence made of its component, code, card and host."""

from __future__ import annotations

from dataclasses import dataclass

from throughline.lab import triage
from throughline.lab.grammar import Banks, Scribe, lines, sentence, unfence
from throughline.lab.triage_components import COMPONENTS

_LOG_NOISE = lines("""
    {~timestamp} INFO heartbeat ok
    {~timestamp} INFO job {~job_id} accepted
    {~timestamp} DEBUG step {~number} done
    {~clock} worker {~small} ready
    INFO connected to {~ip}
    INFO wrote {~path}
    [{~timestamp}] user {username} signed in
    {~timestamp} INFO version {~version} loaded
    INFO retry {~small} of {~small}
    {~clock} checkpoint saved
    NOTICE request {~number} done
    [{~clock}] batch {~small} finished
    DEBUG loss {~number} at step {~number}
    {~timestamp} INFO {~number} tokens served
    info: ping {~ip} ok
    trace {~job_id} closed""")
_LOG_EVENT = lines("""
    {~timestamp} ERROR {host}: {S}
    [{~timestamp}] {host} WARN {S}
    {host} {~clock} error: {S}
    ERROR on {host}: {S}
    {~timestamp} {host} alert: {S}
    level=error host={host} msg="{S}"
    {host} | FATAL | {S}
    <{host}> {~clock} {S}
    {~clock} {host}: notice: {S}
    WARNING [{host}] {S}
    !! {host}: {S}
    {host} kernel: {S}""")
_WHERE = lines("""
    It is about {host}.
    The (node|host|machine) is {host}.
    (Host|Node|Machine|Server): {host}
    It happens on {host}.
    All of it is on {host}.
    (host|node)={host}
    We talk about {host}.
    The affected (machine|node) is {host}.
    Seen on {host}.
    Only {host} does it.
    {host} is the (machine|node) in question.
    Please have a look at {host}.""")

BANKS = triage.BANKS | Banks(divided={"LOG_NOISE": _LOG_NOISE, "LOG_EVENT": _LOG_EVENT, "WHERE": _WHERE})


@dataclass(frozen=True)
class Digest:
    """A text, its one-sentence summary and the facts that the sentence must hold (no absent ones)."""

    text: str
    answer: str
    facts: dict[str, str]
    values: dict[str, str]
    lines: tuple[str, ...]


def reference(facts: dict[str, str]) -> str:
    """The sentence for these facts."""
    card = f" ({facts['gpu_model']})" if "gpu_model" in facts else ""
    code = f" with error {facts['error_code']}" if "error_code" in facts else ""
    article = "an" if facts["component"][0] in "aeiou" else "a"
    return f"{facts['host']}{card} has {article} {facts['component']} problem{code}."


def write_digest(s: Scribe) -> Digest:
    """One text with its summary; call `s.begin(...)` before it."""
    component = s.pick(COMPONENTS)
    code, gpu = s.chance(0.8), s.chance(0.75)
    facts = {"component": component, "host": s.get("host")}
    if gpu:
        facts["gpu_model"] = s.get("gpu")
        triage.bind_card(s, facts["gpu_model"])
    if code:
        facts["error_code"] = s.get("code")
    if s.chance(0.4):
        s.texts["S"] = triage.symptom_clause(s, component)
        body = [s.bank("LOG_EVENT"), *_log_facts(s, code, gpu)]
        for _ in range(s.between(1, 3)):
            body.insert(s.between(0, len(body)), s.bank("LOG_NOISE"))
        text = "\n".join(body)
    else:
        body = [triage.symptom_sentence(s, component), *triage.fact_sentences(s, code, gpu)]
        if facts["host"] not in " ".join(body) or s.chance(0.3):
            body.insert(s.between(0, len(body)), s.bank("WHERE"))
        if s.chance(0.4):
            body.insert(0, s.bank("OPENING"))
        if s.chance(0.3):
            body.append(s.bank("CLOSING"))
        text = s.pick((" ", " ", "\n")).join(body)
    text = unfence(sentence(text))
    values = {k: v for k, v in s.bound.items() if v in text}
    return Digest(text, reference(facts), facts, values, tuple(s.used))


def _log_facts(s: Scribe, code: bool, gpu: bool) -> list[str]:
    if code and gpu:
        return [s.bank("LOG_BOTH")]
    return [s.bank("LOG_CODE")] if code else [s.bank("LOG_GPU")] if gpu else []
