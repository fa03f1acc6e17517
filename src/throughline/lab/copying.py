"""Lists, texts, numbered passages, dialogues, shell sessions and source code that say things twice."""

from __future__ import annotations

import json
import re

from throughline.lab.phrases import BANKS
from throughline.lab.reports import short_forms
from throughline.lab.writer import Writer

# Codes three times as often as the rest.
_ITEM_KINDS = (
    *("code", "code", "code", "gpu", "host", "person", "company", "version", "path"),
    *("number", "ip", "email", "username", "cluster", "ticket_id", "date", "phone", "region"),
)
_SENTENCE_BANKS = (
    *("FILLER", "FILLER", "DISTRACTOR", "EVERYDAY", "POLICY", "FACT"),
    *("MENTION_CODE", "MENTION_GPU", "MENTION_BOTH", "URGENCY", "REQUEST", "FACT"),
)
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_VOCABULARY = sorted(
    {
        word
        for name in ("SYMPTOM", "REQUEST", "EVERYDAY", "POLICY", "URGENCY", "DE", "FR", "ES")
        for text in BANKS[name]
        for word in text.rstrip(".").split()
        if word.isalpha()
    }
)
_CONFIRM = ("Yes, {code}.", "{code}, correct.", "", "It is {code}.")
_WELCOME = (
    "Hello {person}, welcome.",
    "Thank you, {given}. How is {company}?",
    "Is that {person} of {company}?",
    "Hello {given}. I understand that it is about {company}.",
)
_CHECK = ("Thanks, {value} then.", "{value}? Good.", "I will check {value}.", "Ok, {name}={value}")


def _items(w: Writer, n: int) -> list[str]:
    kind = w.pick(_ITEM_KINDS)
    roll = w.rng.random()
    if roll < 0.2:
        return [w.fresh(w.pick(_ITEM_KINDS)) for _ in range(n)]
    if roll < 0.32:
        return [w.bank("PART") for _ in range(n)]
    if roll < 0.42:
        return [w.e.scrap("abcdefghijklmnopqrstuvwxyz", 2, 7) for _ in range(n)]
    if roll < 0.48:
        return [" ".join(w.rng.sample(_VOCABULARY, w.between(1, 5))) for _ in range(n)]
    if roll < 0.56:
        return [w.e.scrap("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", 3, 9) for _ in range(n)]
    return [w.fresh(kind) for _ in range(n)]


def _layout(w: Writer, items: list[str]) -> str:
    style = w.between(0, 8)
    if style == 0:
        return ", ".join(items)
    if style == 1:
        return "\n".join(f"- {i}" for i in items)
    if style == 2:
        return "\n".join(f"{n}. {i}" for n, i in enumerate(items, 1))
    if style == 3:
        return json.dumps(items, ensure_ascii=False)
    if style == 4:
        return " | ".join(items)
    if style == 5:
        return "; ".join(items) + "."
    if style == 6:
        return "\n".join(items)
    if style == 7:
        return " ".join(items)
    return ", ".join(f'"{i}"' for i in items[:-1]) + f' and "{items[-1]}"'


def repeat_list(w: Writer) -> str:
    """A list, then the same list, perhaps in another layout, reversed or with single items picked."""
    items = _items(w, w.between(2, 8))
    head = w.pick(("Items:", "List:", "Names:", "The list is", "Remember:", "Inventory", "Seen today:", "Values:", ""))
    parts = [f"{head}\n{_layout(w, items)}".strip()]
    for _ in range(w.between(1, 3)):
        roll = w.rng.random()
        if roll < 0.6:
            again = w.pick(
                ("Again:", "The same list:", "Copy:", "Repeat:", "Once more:", "In another layout:", "Same:")
            )
            parts.append(f"{again}\n{_layout(w, items)}")
        elif roll < 0.75:
            parts.append(f"{w.pick(('Reversed:', 'Backwards:', 'From the end:'))}\n{_layout(w, items[::-1])}")
        else:
            n = w.between(1, len(items))
            ordinal = _ORDINALS[n - 1]
            parts.append(
                w.pick(
                    (
                        f"Item {n} is {items[n - 1]}.",
                        f"The {ordinal} is {items[n - 1]}.",
                        f"First: {items[0]}\nLast: {items[-1]}",
                        f"There are {len(items)} items, from {items[0]} to {items[-1]}.",
                    )
                )
            )
    return w.pick(("\n", "\n", "\n\n")).join(parts)


def _sentence(w: Writer) -> str:
    return w.bank(w.pick(_SENTENCE_BANKS))


def repeat_text(w: Writer) -> str:
    """A short text, then the same text word for word, quoted, echoed or read back."""
    text = w.pick((" ", " ", "\n")).join(_sentence(w) for _ in range(w.between(1, 4)))
    if w.chance(0.5):
        text += w.pick((" ", "\n")) + w.say(
            w.pick(("Ref {code} {host}.", "{~ip} {code} {gpu}", "{person}, {~phone}", "key={code}"))
        )
    form = w.between(0, 7)
    if form == 0:
        return f'{text}\nThe text reads: "{text}"'
    if form == 1:
        return f"Text:\n{text}\nCopy:\n{text}"
    if form == 2:
        return f"{w.e.given()} wrote:\n{text}\n\nThe reply quoted it:\n> " + text.replace("\n", "\n> ")
    if form == 3:
        return f"$ cat note.txt\n{text}\n$ cp note.txt copy.txt\n$ cat copy.txt\n{text}"
    if form == 4:
        return f"Original: {text}\nRead back: {text}\nMatch: yes"
    if form == 5:
        return f"<p>{text}</p>\nplain: {text}"
    if form == 6:
        return f"{text}\n\n{text}"
    return f"input = {json.dumps(text, ensure_ascii=False)}\noutput = {json.dumps(text, ensure_ascii=False)}"


def passages(w: Writer) -> str:
    """Numbered paragraphs, then sentences that quote some of them with their number."""
    n = w.between(2, 6)
    texts: list[str] = []
    facts: list[dict[str, str]] = []
    for _ in range(n):
        w.begin()
        texts.append(" ".join(w.bank("FACT") for _ in range(w.between(1, 2))))
        facts.append(dict(w.bound))
    mark = w.pick(("[{}] ", "[{}] ", "[{}] ", "({}) ", "{}. ", "Paragraph {}: "))
    cite = mark.strip().rstrip(".:") if mark[0] in "[(P" else "[{}]"
    out = [w.pick(("\n", "\n\n")).join(mark.format(i) + t for i, t in enumerate(texts, 1))]
    order = list(range(n))
    w.rng.shuffle(order)
    for i in order[: w.between(1, 3)]:
        c = cite.format(i + 1)
        first = re.split(r"(?<=\.) (?=[A-Z{])", texts[i])[0]
        bare = first.rstrip(".")
        unique = [v for k, v in facts[i].items() if sum(v in t for t in texts) == 1 and v in texts[i]]
        form = w.between(0, 6)
        if form == 0 or not unique:
            out.append(
                w.pick((f"{bare} {c}.", f"As {c} says, {first}", f"See {c}: {first}", f'Quote {c}: "{texts[i]}"'))
            )
            continue
        value = w.pick(unique)
        first = next((t for t in re.split(r"(?<=\.) (?=[A-Z{])", texts[i]) if value in t), texts[i])
        bare = first.rstrip(".")
        out.append(
            w.pick(
                (
                    f"{value} is mentioned in {c}: {first}",
                    f"Q: Which paragraph mentions {value}? A: {c}",
                    f"Where is {value}? In {c}. {bare} {c}.",
                    f"Question: what do the paragraphs say about {value}?\nAnswer: {bare} {c}.",
                    f"About {value}: {bare} {c}.",
                    f"{value} {c}",
                )
            )
        )
    if w.chance(0.25):
        ghost = w.pick((w.e.code(), w.e.host(), w.e.person(), w.e.company()))
        out.append(
            w.pick(
                (
                    f"None of the paragraphs mentions {ghost}.",
                    f"Q: Which paragraph mentions {ghost}? A: none of them",
                    f"{ghost} is not in the text.",
                    f"Nothing was found about {ghost}.",
                )
            )
        )
    return "\n".join(out)


def dialogue(w: Writer) -> str:
    """Two speakers, one of whom says again what the other said."""
    a, b = w.pick(
        (
            ("A", "B"),
            ("Agent", "Customer"),
            ("Q", "A"),
            ("User", "Helper"),
            ("Alice", "Bob"),
            (w.e.given(), w.e.given()),
            ("Operator", "Caller"),
            ("Support", "Client"),
        )
    )
    out: list[str] = []
    for turn in range(w.between(1, 3)):
        w.bound = {k: v for k, v in w.bound.items() if k in ("person", "company")}
        roll = w.rng.random()
        if roll < 0.35:
            out += [f"{b}: {w.bank('MENTION_CODE')} {w.bank('MENTION_GPU') if w.chance(0.6) else ''}".rstrip()]
            asked = w.pick(
                (
                    "So it is {code}?",
                    "Let me repeat: {code}.",
                    "You said {code}, right?",
                    "I noted {code}.",
                    "Is {code} the whole code?",
                )
            )
            out += [
                f"{a}: {w.say(asked)}",
                f"{b}: {w.bank('THANKS')} {w.say(w.pick(_CONFIRM))}".rstrip(),
            ]
            if "gpu" in w.bound:
                out += [f"{a}: And the card?", f"{b}: {w.bank('BACK_GPU')}"]
        elif roll < 0.6:
            out += [f"{b}: {w.say('This is {person} from {company}. We see that {SYMPTOM}.')}"]
            out += [f"{a}: {w.say(w.pick(_WELCOME))}"]
            out += [f"{b}: {w.bank('REQUEST')} {w.bank('URGENCY')}"]
        elif roll < 0.8:
            word = w.pick(("Say", "Repeat", "Please write", "Copy", "Echo"))
            text = _sentence(w) if w.chance(0.5) else " ".join(_items(w, w.between(1, 4)))
            out += [f"{a}: {word}: {text}", f"{b}: {text}"]
        else:
            kind = w.pick(("host", "version", "path", "ip", "username", "email"))
            value = w.get(kind)
            name = {"ip": "address", "path": "file", "username": "login", "email": "mail address"}.get(kind, kind)
            out += [
                f"{a}: What is the {name}?",
                f"{b}: {w.pick((value, f'It is {value}.', f'{value}, I think.'))}",
                f"{a}: {w.pick(_CHECK).format(value=value, name=name)}",
            ]
        if turn and w.chance(0.3):
            out.append(f"{a}: {w.bank('THANKS')}")
    return "\n".join(out)


def transcript(w: Writer) -> str:
    """Shell commands and their output; later commands use what earlier ones printed."""
    host, gpu, code, path = w.get("host"), w.get("gpu"), w.get("code"), w.get("path")
    user, job = w.get("username"), w.get("job_id")
    prompt = w.pick(("$ ", "# ", f"{user}@{host}:~$ ", "> "))
    blocks = [
        f"{prompt}hostname\n{host}\n{prompt}ssh {host}",
        f"{prompt}nvidia-smi -L\nGPU 0: NVIDIA {gpu}\nGPU 1: NVIDIA {gpu}",
        f"{prompt}grep -n {code} {path}\n{w.between(1, 999)}: {w.bank('LOGCODE')}",
        f"{prompt}echo {code} > {path}\n{prompt}cat {path}\n{code}",
        f"{prompt}export NAME={code}\n{prompt}echo $NAME\n{code}",
        f"{prompt}squeue -u {user}\nJOBID USER NODE\n{job} {user} {host}\n{prompt}scancel {job}",
        f"{prompt}kubectl get pods\n{host}-{job} Running\n{prompt}kubectl logs {host}-{job}\n{w.bank('LOGCODE')}",
        f"{prompt}ls {path}\n{path}\n{prompt}rm {path}",
        f"{prompt}tail -1 {path}\n{w.bank('LOGCODE')}",
    ]
    w.rng.shuffle(blocks)
    text = "\n".join(blocks[: w.between(2, 4)])
    tail = short_forms(w, text, code=code in text, gpu=gpu in text) if w.chance(0.7) else []
    return "\n".join([text, *tail])


def code_snippet(w: Writer) -> str:
    """A few lines of source code whose constants come again."""
    code, gpu, host, path = w.get("code"), w.get("gpu"), w.get("host"), w.get("path")
    name = (
        w.pick(("check", "find", "retry", "report", "lookup", "parse", "handle", "notify"))
        + "_"
        + w.pick(("fault", "node", "card", "job", "event"))
    )
    var = w.pick(("value", "text", "key", "item", "label", "line"))
    n = w.between(2, 64)
    blocks = [
        f'def {name}({var}):\n    """Looks for {code}."""\n    if {var} == "{code}":\n        return True\n'
        f'    return False\n\n{name}("{code}")  # True',
        f'{var} = "{code}"\nprint({var})\n# prints {code}',
        f'NODES = ["{host}", "{w.e.host()}"]\nprint(NODES[0])  # {host}',
        f'DEVICES = {{"{gpu}": {n}}}\nprint(DEVICES["{gpu}"])  # {n}',
        f'{name.upper()}={code}\nif [ "${name.upper()}" = "{code}" ]; then\n  echo "{code} on {host}"\nfi',
        f'with open("{path}") as f:\n    for {var} in f:\n        if "{code}" in {var}:\n'
        f'            print("{host}", {var})\n# looks for {code} in {path}',
        f'{{"{var}": "{code}", "count": {n}, "next": null}}\n# {var} = {code}, count = {n}',
        f'assert {name}("{gpu}") == "{gpu.lower()}"\nassert {name}("{host}") == "{host}"',
        f'try:\n    {name}("{host}")\nexcept RuntimeError as err:\n'
        f'    log("{code}", err)\n    raise SystemExit("{code}")',
    ]
    w.rng.shuffle(blocks)
    return "\n\n".join(blocks[: w.between(1, 3)])
