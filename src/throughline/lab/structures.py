"""Structured pre-training text: records in several notations, look-up tables, nested JSON, generic chats."""

from __future__ import annotations

import json
from collections.abc import Sequence

from throughline.lab.writer import Writer

Fact = tuple[str, str | None]

# Keys that a record may use for each kind of value; none of them is a key of the lab's tasks.
_KEYS: dict[str, tuple[str, ...]] = {
    "code": (
        "code",
        "fault",
        "err",
        "errno",
        "event",
        "fault_id",
        "error",
        "signature",
        "alarm",
        "status_code",
        "trap",
        "err_id",
    ),
    "gpu": (
        "gpu",
        "card",
        "device",
        "board",
        "hardware",
        "accelerator",
        "model",
        "sku",
        "gpu_name",
        "product_name",
    ),
    "host": ("host", "node", "machine", "server", "hostname", "where", "target"),
    "person": ("name", "reporter", "contact", "author", "from", "sender", "person"),
    "company": ("company", "org", "customer_name", "account", "tenant", "client"),
    "product": ("product", "system", "service_name", "area", "subject"),
    "version": ("version", "release", "driver", "build"),
    "path": ("path", "file", "log", "attachment"),
    "ip": ("ip", "address", "peer"),
    "email": ("email", "mail", "reply_to"),
    "date": ("date", "day", "since", "when"),
    "job_id": ("job", "job_id", "run"),
    "username": ("user", "login", "username"),
    "region": ("region", "zone", "site"),
    "cluster": ("cluster", "pool", "partition"),
    "ticket_id": ("case", "reference", "number"),
    "phone": ("phone", "tel"),
    "number": ("count", "amount", "total", "limit"),
    "small": ("retries", "slot", "rank", "percent"),
}
_KINDS = tuple(_KEYS)
_NUMERIC = ("number", "small", "job_id")


def _key(w: Writer, kind: str) -> str:
    name = w.pick(_KEYS[kind])
    roll = w.rng.random()
    if roll < 0.08:
        return name.upper()
    if roll < 0.16:
        return name.capitalize()
    if roll < 0.22:
        head, *rest = name.split("_")
        return head + "".join(part.capitalize() for part in rest) + w.pick(("", "Value", "Id"))
    return name


def _quote(value: str | None) -> str:
    return "null" if value is None else json.dumps(value, ensure_ascii=False)


def as_record(w: Writer, facts: Sequence[Fact]) -> str:
    """The facts as a record in a random notation; an absent value becomes null, none, empty or a dash."""
    by_key: dict[str, str | None] = {}
    for kind, value in facts:
        by_key.setdefault(_key(w, kind), value)
    rows = list(by_key.items())
    if w.chance(0.35):
        rows.insert(
            w.between(0, len(rows)),
            (
                w.pick(("type", "state", "kind", "source", "level")),
                w.pick(("report", "open", "mail", "note", "info", "log", "new")),
            ),
        )
    style = w.between(0, 11)
    if style <= 3:
        body = ", ".join(f'"{k}": {_quote(v)}' for k, v in rows)
        return w.pick(
            (
                "{" + body + "}",
                "{" + body + "}",
                f"record {{{body}}}",
                f'{{"{w.pick(("data", "entry", "report", "payload"))}": {{{body}}}}}',
            )
        )
    if style == 4:
        return json.dumps(dict(rows), indent=2, ensure_ascii=False)
    if style == 5:
        return "\n".join(f"{k}: {v or 'null'}" for k, v in rows)
    if style == 6:
        return f"[{w.pick(('entry', 'report', 'fault', 'event'))}]\n" + "\n".join(
            f"{k} = {v or 'none'}" for k, v in rows
        )
    if style == 7:
        tag = w.pick(("item", "report", "event"))
        return f"<{tag}>" + "".join(f"<{k}>{v or ''}</{k}>" for k, v in rows) + f"</{tag}>"
    if style == 8:
        return ";".join(k for k, _ in rows) + "\n" + ";".join(v or "" for _, v in rows)
    if style == 9:
        return "| " + " | ".join(k for k, _ in rows) + " |\n| " + " | ".join(v or "-" for _, v in rows) + " |"
    if style == 10:
        return " ".join(f"{k}={v or 'none'}" for k, v in rows)
    return (
        f"{w.pick(('create', 'add', 'log', 'save', 'register'))}("
        + ", ".join(f"{k}={'None' if v is None else _quote(v)}" for k, v in rows)
        + ")"
    )


def _table(w: Writer, n: int) -> list[tuple[str, str]]:
    """`n` pairs with different keys: field names of one thing, or many things with one attribute each."""
    roll = w.rng.random()
    rows: dict[str, str] = {}
    while len(rows) < n:
        if roll < 0.4:
            kind = w.pick(_KINDS)
            rows.setdefault(_key(w, kind), w.fresh(kind))
        elif roll < 0.6:
            rows.setdefault(w.e.host(), w.e.code() if w.chance(0.7) else w.e.any_gpu())
        elif roll < 0.75:
            rows.setdefault(w.e.code(), w.bank("PART"))
        elif roll < 0.85:
            rows.setdefault(w.e.any_gpu(), w.e.code())
        else:
            rows.setdefault(w.e.person(), w.pick((w.e.phone, w.e.email, w.e.code, w.e.company))())
    return list(rows.items())


def as_table_answers(w: Writer) -> str:
    """Key and value pairs, then what the value of some keys is."""
    rows = _table(w, w.between(2, 7))
    style = w.between(0, 6)
    if style == 0:
        text = "\n".join(f"{k}: {v}" for k, v in rows)
    elif style == 1:
        text = "\n".join(f"{k} = {v}" for k, v in rows)
    elif style == 2:
        text = json.dumps(dict(rows), ensure_ascii=False)
    elif style == 3:
        text = "\n".join(f"| {k} | {v} |" for k, v in rows)
    elif style == 4:
        text = "\n".join(f"- {k} -> {v}" for k, v in rows)
    elif style == 5:
        text = "\n".join(f"{w.pick(('The value of', 'For', 'Under'))} {k} we have {v}." for k, v in rows)
    else:
        text = ", ".join(f"{k}={v}" for k, v in rows)
    asked = list(rows)
    w.rng.shuffle(asked)
    form = w.between(0, 7)
    out = [text]
    for k, v in asked[: w.between(1, 4)]:
        out.append(
            (
                f"The value of {k} is {v}.",
                f"Q: {k}? A: {v}",
                f"{k} -> {v}",
                f"get({_quote(k)}) = {_quote(v)}",
                f"What belongs to {k}? {v}",
                f"Which one has {v}? {k}",
                f"lookup {k}\n{v}",
                f"{v} belongs to {k}.",
            )[form]
        )
    if w.chance(0.2):
        ghost = w.pick((w.e.code, w.e.host, w.e.person))()
        out.append(
            (
                f"There is no value for {ghost}.",
                f"Q: {ghost}? A: not in the table",
                f"{ghost} -> none",
                f"get({_quote(ghost)}) = null",
                f"What belongs to {ghost}? nothing",
                f"Which one has {ghost}? none",
                f"lookup {ghost}\nnot found",
                f"{ghost} belongs to nobody.",
            )[form]
        )
    return "\n".join(out)


def nested_json(w: Writer) -> str:
    """JSON of several records, then parts of it in another notation."""
    records: list[dict[str, object]] = []
    kinds = [w.pick(_KINDS) for _ in range(w.between(2, 4))]
    keys = {_key(w, kind): kind for kind in kinds}
    for _ in range(w.between(1, 3)):
        record: dict[str, object] = {}
        for key, kind in keys.items():
            value = w.fresh(kind)
            number = kind in _NUMERIC and value.isdigit()
            record[key] = (
                None if w.chance(0.1) else int(value) if number else w.chance(0.5) if w.chance(0.03) else value
            )
        records.append(record)
    top = w.pick(("items", "events", "data", "rows", "nodes", "results", "entries"))
    whole = w.pick(
        (
            json.dumps(records, ensure_ascii=False),
            json.dumps({top: records}, ensure_ascii=False),
            json.dumps({top: records}, indent=2, ensure_ascii=False),
            "\n".join(json.dumps(r, ensure_ascii=False) for r in records),
        )
    )
    out = [whole]
    for _ in range(w.between(1, 2)):
        i = w.between(0, len(records) - 1)
        record = records[i]
        form = w.between(0, 4)
        if form == 0:
            out.append(json.dumps(record, ensure_ascii=False))
        elif form == 1:
            out.append(
                f"# entry {i}\n" + "\n".join(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in record.items())
            )
        elif form == 2:
            key = w.pick(list(record))
            out.append(f"{top}[{i}].{key} = {json.dumps(record[key], ensure_ascii=False)}")
        elif form == 3:
            key = w.pick(list(record))
            out.append(f"All values of {key}: {json.dumps([r[key] for r in records], ensure_ascii=False)}")
        else:
            shown = {k: record[k] for k in reversed(record)}
            out.append(json.dumps(shown, ensure_ascii=False))
    return "\n".join(out)


_TOOLS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("find_node", ("host",)),
    ("send_mail", ("email", "person")),
    ("start_job", ("username", "path")),
    ("ping", ("ip",)),
    ("read_log", ("host", "path")),
    ("book_room", ("person", "date")),
    ("call_back", ("phone", "person")),
    ("search_manual", ("code",)),
    ("list_cards", ("gpu", "region")),
    ("add_user", ("username", "company")),
    ("note", ("code", "host")),
    ("install", ("version", "host")),
    ("order_part", ("gpu", "company")),
    ("watch", ("code", "cluster")),
    ("register_device", ("gpu", "host", "version")),
)
_SYSTEMS = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You repeat what you are asked to repeat.",
    "You look up values in text.",
    "Be exact and copy names as they are written.",
    "You help people with computers.",
    "Use a tool when one fits.",
    "",
    "You answer from the text only.",
    "Reply in one line.",
    "You are the assistant of {company}.",
)
_ASK = {
    "code": ("Which code is it?", "Give me the code.", "What was the error?", "Code please."),
    "gpu": ("Which card?", "Name the GPU.", "What hardware is it?"),
    "host": ("Which host?", "Where did it happen?", "Name the machine."),
    "person": ("Who wrote it?", "Name of the sender?"),
    "email": ("What is the address?", "Where can I write to?"),
    "phone": ("What is the phone number?", "Where can I call?"),
}


def chat_document(w: Writer) -> str:
    """A generic conversation with the chat markers: copying, look-ups, calls of tools (never the lab's)."""
    out: list[str] = []
    system = w.say(w.pick(_SYSTEMS))
    roll = w.rng.random()
    tool, kinds = w.pick(_TOOLS)
    parameters = [(w.pick(_KEYS[k]), k) for k in kinds]
    if roll < 0.35:
        offered = [f"{tool}({', '.join(key for key, _ in parameters)})"]
        for other, other_kinds in w.rng.sample(_TOOLS, w.pick((0, 0, 1, 2))):
            if other != tool:
                offered.insert(w.between(0, len(offered)), f"{other}({', '.join(other_kinds)})")
        schema = "Tools:\n" + "\n".join(offered)
        system = f"{system}\n{schema}".strip()
    if system:
        out.append(f"<|system|>\n{system}<|end|>\n")
    for _ in range(w.between(1, 2)):
        w.bound = {k: v for k, v in w.bound.items() if k == "company"}
        if roll < 0.35:
            facts = ", ".join(f"{w.pick(('', '', w.pick(_KEYS[k]) + ' '))}{w.get(k)}" for _, k in parameters)
            ask = w.pick(
                (
                    f"{w.bank('FILLER')} {facts}",
                    f"{facts}. {w.bank('REQUEST')}",
                    f"Please {tool.replace('_', ' ')}: {facts}",
                    f"{w.bank('OPENING')} {facts}",
                )
            )
            arguments = {key: w.get(k) for key, k in parameters}
            call = json.dumps({"name": tool, "arguments": arguments}, ensure_ascii=False)
            answer = f"<tool_call>{call}</tool_call>"
            out.append(f"<|user|>\n{ask}<|end|>\n<|assistant|>\n{answer}<|end|>\n")
            if w.chance(0.3):
                result = w.pick(("ok", "done", w.bank("LOGMSG")))
                out.append(f"<|tool|>\n{result}<|end|>\n<|assistant|>\n{w.bank('THANKS')}<|end|>\n")
            continue
        if roll < 0.6:
            text = w.bank(w.pick(("EVERYDAY", "MENTION_CODE", "FACT", "DISTRACTOR", "MENTION_BOTH")))
            ask = f"{w.pick(('Repeat', 'Copy this', 'Say', 'Write exactly', 'Echo'))}: {text}"
            answer = text
        else:
            story = f"{w.bank('MENTION_BOTH')} {w.bank('DISTRACTOR')} {w.bank('CLOSING')}"
            kind = w.pick([k for k in _ASK if k in w.bound])
            last = w.chance(0.5)
            question = w.pick(_ASK[kind])
            ask = f"{story}\n{question}" if last else f"{question}\n{story}"
            answer = w.pick((w.get(kind), f"It is {w.get(kind)}.", f"{w.get(kind)}, according to the text."))
        out.append(f"<|user|>\n{ask}<|end|>\n<|assistant|>\n{answer}<|end|>\n")
    return "".join(out)
