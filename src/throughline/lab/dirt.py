"""What is wrong with the raw training records on purpose, and the oracle that lists it."""

from __future__ import annotations

import copy
import json
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

Record = dict[str, Any]

DUPLICATE_SHARE = 0.03
NEAR_DUPLICATE_SHARE = 0.04
PERSONAL_SHARE = 0.05
# Shares of the clean records that are damaged, each in one way.
DAMAGE_SHARES: dict[str, float] = {
    "mojibake": 0.004,
    "invalid_utf8": 0.003,
    "nul": 0.003,
    "zero_width": 0.004,
    "role_order": 0.005,
    "empty_output": 0.005,
    "echoed_output": 0.005,
    "truncated_json": 0.003,
    "missing_field": 0.003,
}
_OPENERS = ("Hello", "Hi", "Please note", "PS", "FYI")
_PLANTS = {
    "email": ("Mail me at {}.", "My address: {}", "reply to {} please"),
    "phone": ("Call {}.", "My number: {}", "tel {}"),
    "ip": ("My IP is {}.", "client {}", "from {}"),
    "credit_card": ("My card number is {}.", "card {}", "pay with {}"),
    "api_key": ("My key is {}.", "token {}", "api_key={}"),
}
_USER_CONTENT = b'"role": "user", "content": "'
_ACCENTS = ("café", "naïve", "Zürich", "señor", "déjà vu", "Grüße")


@dataclass(frozen=True)
class Line:
    """One line of a source file, without its line end."""

    source: str
    raw: bytes


@dataclass(frozen=True)
class Corrupted:
    """All lines in order and the oracle.

    `planted["personal"]` lists {id, kind, value} for every personal value in a record;
    `planted["duplicates"]` and `["near_duplicates"]` list [copy's id, original's id];
    `planted["damage"]` maps each kind of damage to record ids.
    """

    lines: tuple[Line, ...]
    planted: dict[str, Any]


def luhn_digits(rng: Random) -> str:
    """Sixteen digits with a valid Luhn check digit, in groups of four."""
    body = [rng.choice((4, 5)), *(rng.randint(0, 9) for _ in range(14))]
    total = sum(d if i % 2 else (d * 2 - 9 if d > 4 else d * 2) for i, d in enumerate(body))
    digits = "".join(map(str, [*body, -total % 10]))
    return rng.choice(("", " ", "-")).join(digits[i : i + 4] for i in range(0, 16, 4))


def personal_value(rng: Random, kind: str) -> str:
    """A made-up personal value of a kind; domains and numbers are reserved for examples where they exist."""
    if kind == "credit_card":
        return luhn_digits(rng)
    if kind == "api_key":
        head = rng.choice(("sk-", "hf_", "ghp_", "nvapi-"))
        return head + "".join(rng.choices(string.ascii_letters + string.digits, k=32))
    if kind == "ip":
        return f"{rng.choice(('203.0.113', '198.51.100'))}.{rng.randint(1, 254)}"
    if kind == "phone":
        return f"+1 555 {rng.randint(100, 999)} {rng.randint(1000, 9999)}"
    name = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(4, 8)))
    return f"{name}{rng.randint(1, 99)}@{rng.choice(('example.com', 'example.org', 'mail.example.net'))}"


def _user(record: Record) -> dict[str, Any]:
    message: dict[str, Any] = [m for m in record["messages"] if m["role"] == "user"][-1]
    return message


def _answer(record: Record) -> dict[str, Any]:
    message: dict[str, Any] = record["messages"][-1]
    return message


def _plant(record: Record, rng: Random) -> tuple[str, str]:
    kind = rng.choice(tuple(_PLANTS))
    value = personal_value(rng, kind)
    note = rng.choice(_PLANTS[kind]).format(value)
    user = _user(record)
    before = record["task"] in ("triage", "refusal") and rng.random() < 0.5
    # Passages and their question keep their places: the note follows them.
    user["content"] = f"{note}\n{user['content']}" if before else f"{user['content']}\n{note}"
    return kind, value


def _near(text: str, rng: Random) -> str:
    """The text with other white space, other case or one word more; values and labels stay true."""
    form = rng.randint(0, 3)
    if form == 0:
        return text.replace(" ", "  ", 3) + " "
    if form == 1:
        return text.replace("\n", " \n ") + "\n"
    if form == 2:
        return f"{rng.choice(_OPENERS)}: {text}"
    return text[:1].swapcase() + text[1:].rstrip(".") + "!"


def _mojibake(record: Record, rng: Random) -> None:
    user = _user(record)
    user["content"] = f"{user['content']}\n{rng.choice(_ACCENTS)}".encode().decode("latin-1")


def _nul(record: Record, rng: Random) -> None:
    user = _user(record)
    at = rng.randint(0, len(user["content"]))
    user["content"] = user["content"][:at] + "\x00" + user["content"][at:]


def _zero_width(record: Record, rng: Random) -> None:
    user = _user(record)
    user["content"] = user["content"].replace(" ", " " + rng.choice("\u200b\u200c\ufeff"), 3)


def _role_order(record: Record, rng: Random) -> None:
    messages = record["messages"]
    if rng.random() < 0.5:
        messages[-1], messages[-2] = messages[-2], messages[-1]
    else:
        messages[-2]["role"] = "assistant"


def _empty(record: Record, rng: Random) -> None:
    answer = _answer(record)
    answer.pop("tool_calls", None)
    answer["content"] = rng.choice(("", " ", "\n"))


def _echo(record: Record, rng: Random) -> None:
    answer = _answer(record)
    answer.pop("tool_calls", None)
    answer["content"] = _user(record)["content"]


def _missing(record: Record, rng: Random) -> None:
    record.pop(rng.choice(("messages", "task", "licence")))


_DAMAGE: dict[str, Callable[[Record, Random], None]] = {
    "mojibake": _mojibake,
    "nul": _nul,
    "zero_width": _zero_width,
    "role_order": _role_order,
    "empty_output": _empty,
    "echoed_output": _echo,
    "missing_field": _missing,
}


def to_line(record: Record) -> bytes:
    """Returns the record as one line of JSON in UTF-8, without a line end."""
    return json.dumps(record, ensure_ascii=False).encode()


def _raw(record: Record, damage: str | None, rng: Random) -> bytes:
    raw = to_line(record)
    if damage == "truncated_json":
        return raw[: rng.randint(len(raw) // 3, len(raw) - 2)]
    if damage == "invalid_utf8":
        at = raw.index(_USER_CONTENT) + len(_USER_CONTENT)
        return raw[:at] + rng.choice((b"\xff", b"\xc3\x28", b"\xe2\x82")) + raw[at:]
    return raw


def corrupt(records: Sequence[Record], rng: Random) -> Corrupted:
    """Plants duplicates, personal values and damage into copies of the clean records.

    Damaged records are never duplicated, and duplicates carry the personal values of their originals.
    """
    planted: dict[str, Any] = {"personal": [], "duplicates": [], "near_duplicates": []}
    planted["damage"] = {kind: [] for kind in DAMAGE_SHARES}
    order = rng.sample(range(len(records)), len(records))
    damage_of: dict[int, str] = {}
    for kind, share in DAMAGE_SHARES.items():
        for _ in range(round(share * len(records))):
            damage_of[order.pop()] = kind
    with_plant = {order[i] for i in range(round(PERSONAL_SHARE * len(records)))}
    copies = rng.sample(order, round((DUPLICATE_SHARE + NEAR_DUPLICATE_SHARE) * len(records)))
    exact = round(DUPLICATE_SHARE * len(records))
    copy_of = {i: n < exact for n, i in enumerate(copies)}

    lines: list[Line] = []
    later: list[Line] = []
    for i, clean in enumerate(records):
        record = copy.deepcopy(clean)
        values = [_plant(record, rng)] if i in with_plant else []
        planted["personal"] += [{"id": record["id"], "kind": k, "value": v} for k, v in values]
        if i in copy_of:
            twin = copy.deepcopy(record)
            twin["id"] = f"{record['id']}-c"
            planted["personal"] += [{"id": twin["id"], "kind": k, "value": v} for k, v in values]
            planted["duplicates" if copy_of[i] else "near_duplicates"].append([twin["id"], record["id"]])
            if not copy_of[i]:
                _user(twin)["content"] = _near(_user(twin)["content"], rng)
            later.append(Line(record["source"], _raw(twin, None, rng)))
        damage = damage_of.get(i)
        source = record["source"]
        if damage:
            planted["damage"][damage].append(record["id"])
            if damage in _DAMAGE:
                _DAMAGE[damage](record, rng)
        lines.append(Line(source, _raw(record, damage, rng)))
    for line in later:
        lines.insert(rng.randint(0, len(lines)), line)
    return Corrupted(tuple(lines), planted)
