"""Phrase grammar of the lab's records: banks whose lines are divided between the splits, and their expansion.

A line may hold `(a|b|)` (one of these, perhaps nothing), `{host}` (a value, the same one all through the
record; `{~host}` is a new one) and `{BANK}` (a line of another bank). Held out are whole lines, so that an
acceptance record has frames that no training record has, built from the same vocabulary.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal, TypeVar

from throughline.lab.entities import Entities

RecordSplit = Literal["train", "probe", "acceptance"]
SPLITS: tuple[RecordSplit, ...] = ("train", "probe", "acceptance")
T = TypeVar("T")

ACCEPTANCE_SHARE = 0.18
PROBE_SHARE = 0.1
# Values are fenced while a text is built so that noise never touches them.
OPEN, CLOSE = "\x02", "\x03"
MAX_CODE_LENGTH = 12

_PIECE = re.compile(r"(\{~?[A-Za-z_]+\d?\}|\([^()|{}]*(?:\{~?[A-Za-z_]+\}[^()|{}]*)*\|[^()]*\))")
# Parts of codes and host names that would hint at a component other than the ticket's.
_TELLING = re.compile(
    r"(?<![a-z])(mem|ecc|net|fs|sched|job|pod|auth|bill|fan|temp|nccl|ib|nvl|drv|disk|quota|lic|link|rdma|io|"
    r"dma|bus|pcie|pwr|mpi|login|store|nas|cache|proxy|render)(?![a-z])",
    re.IGNORECASE,
)
NEUTRAL_PRODUCTS = (
    *("training cluster", "inference server", "notebook", "chat endpoint", "speech service", "image service"),
    *("data pipeline", "vector index", "development cluster", "staging cluster", "search service"),
    *("translation service", "recommendation model", "fraud model", "forecast model", "rendering pipeline"),
)


def lines(block: str) -> tuple[str, ...]:
    """The non-empty lines of a block."""
    return tuple(line.strip() for line in block.strip().splitlines() if line.strip())


def bars(block: str) -> tuple[str, ...]:
    """The parts of a block between bars; a bar inside parentheses does not divide."""
    return tuple(" ".join(part.split()) for part in re.split(r"\|(?![^()]*\))", block) if part.strip())


def part(options: Sequence[str], split: RecordSplit) -> tuple[str, ...]:
    """The split's share of a bank: disjoint, never empty for three or more lines, stable under reordering."""
    ranked = sorted(options, key=lambda line: (zlib.crc32(line.encode()), line))
    held = max(1, round(len(ranked) * ACCEPTANCE_SHARE))
    probe = held + max(1, round(len(ranked) * PROBE_SHARE))
    return tuple({"acceptance": ranked[:held], "probe": ranked[held:probe], "train": ranked[probe:]}[split])


@dataclass(frozen=True)
class Banks:
    """Named banks: `divided` ones give each split its own lines, `shared` ones are vocabulary for all."""

    divided: Mapping[str, tuple[str, ...]]
    shared: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __or__(self, other: Banks) -> Banks:
        """Both; the right one wins where a name is in both."""
        return Banks({**self.divided, **other.divided}, {**self.shared, **other.shared})


class SplitEntities(Entities):
    """Values of one record split: acceptance and probe each use one half of the held-out values."""

    def __init__(self, rng: Random, split: RecordSplit) -> None:
        super().__init__(rng, "train" if split == "train" else "heldout")
        self._half = {"train": None, "probe": 0, "acceptance": 1}[split]

    def _draw(self, make: Callable[[Random], str], key: Callable[[str], str] = str) -> str:
        while True:
            value = super()._draw(make, key)
            if self._half in (None, value_half(key(value))):
                return value

    def code(self) -> str:
        """A code of at most 12 characters that does not name a component."""
        while True:
            value = super().code()
            if 3 <= len(value) <= MAX_CODE_LENGTH and not _TELLING.search(value):
                return value

    def host(self) -> str:
        """A host name that does not name a component."""
        while True:
            value = super().host()
            if not _TELLING.search(value):
                return value


def value_half(value: str) -> int:
    """Which half of the held-out values this one is in: 0 probe, 1 acceptance."""
    key = re.sub(r"[^0-9a-z]+", "", value.casefold())
    return (zlib.crc32(key.encode()) >> 17) % 2


class Scribe:
    """Writes one record's text after another; `begin` forgets values and the lines used.

    `used` lists the divided lines of the record so far, `personal` its e-mail, phone and IP addresses.
    """

    def __init__(self, rng: Random, split: RecordSplit, banks: Banks) -> None:
        self.rng = rng
        self.split = split
        self.e = SplitEntities(rng, split)
        self.bound: dict[str, str] = {}
        self.used: list[str] = []
        self.texts: dict[str, str] = {}
        self.personal: list[tuple[str, str]] = []
        self._banks: dict[str, tuple[str, ...]] = {k: part(v, split) for k, v in banks.divided.items()}
        self._divided = frozenset(banks.divided)
        self._banks.update(banks.shared)
        self._parsed: dict[str, tuple[str, ...]] = {}
        e = self.e
        self._make: dict[str, Callable[[], str]] = {
            "code": e.code,
            "gpu": self._gpu,
            "host": e.host,
            "person": e.person,
            "given": lambda: self.get("person").split(" ", 1)[0],
            "company": e.company,
            "email": lambda: self._note("email", e.email(self.get("person"), self.get("company"))),
            "username": lambda: e.username(self.get("person")),
            "phone": lambda: self._note("phone", e.phone()),
            "ip": lambda: self._note("ip", e.ip()),
            "version": e.version,
            "date": e.date,
            "clock": e.clock,
            "timestamp": e.timestamp,
            "path": e.path,
            "number": e.number,
            "region": e.region,
            "cluster": e.cluster,
            "job_id": e.job_id,
            "ticket_id": e.ticket_id,
            "product": lambda: self.pick(NEUTRAL_PRODUCTS),
            "small": lambda: str(int(2 + self.rng.random() ** 2 * 97)),
            "hours": lambda: str(self.between(2, 12)),
        }

    def _gpu(self) -> str:
        return self.e.synthetic_gpu() if self.chance(0.25) else self.e.gpu()

    def _note(self, kind: str, value: str) -> str:
        self.personal.append((kind, value))
        return value

    def begin(self, **bound: str) -> None:
        """Starts a new record, perhaps with values already known."""
        self.bound = dict(bound)
        self.used = []
        self.texts = {}
        self.personal = []

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self.rng.random() * len(options))]

    def chance(self, p: float) -> bool:
        """True with probability `p`."""
        return self.rng.random() < p

    def between(self, low: int, high: int) -> int:
        """An integer from low to high, both possible."""
        return low + int(self.rng.random() * (high - low + 1))

    def get(self, name: str) -> str:
        """The record's own value, drawn at its first use; `host2` is another host."""
        value = self.bound.get(name)
        if value is None:
            value = self.bound[name] = self._make[name.rstrip("0123456789")]()
        return value

    def bank(self, name: str) -> str:
        """A line of the bank, expanded."""
        line = self.pick(self._banks[name])
        if name in self._divided:
            self.used.append(line)
        return self.say(line)

    def say(self, line: str) -> str:
        """The line with every alternative chosen and every slot filled; values are fenced."""
        pieces = self._parsed.get(line)
        if pieces is None:
            pieces = self._parsed[line] = tuple(_PIECE.split(line))
        if len(pieces) == 1:
            return line
        out: list[str] = []
        for i, piece in enumerate(pieces):
            if i % 2 == 0:
                out.append(piece)
            elif piece[0] == "(":
                out.append(self.say(self.pick(piece[1:-1].split("|"))))
            elif piece[1] == "~":
                out.append(f"{OPEN}{self._make[piece[2:-1]]()}{CLOSE}")
            elif (name := piece[1:-1]) in self.texts:
                out.append(self.texts[name])
            elif name.isupper():
                out.append(self.bank(name))
            else:
                out.append(f"{OPEN}{self.get(name)}{CLOSE}")
        return "".join(out)


_SPACES = re.compile(r"[ \t]{2,}")
_BEFORE = re.compile(r" ([.,;:!?])(?=\s|$)")


def sentence(text: str) -> str:
    """The text with a capital first letter unless it opens with a value."""
    return text[:1].upper() + text[1:]


def unfence(text: str) -> str:
    """The finished text: fences gone, spaces single."""
    return _SPACES.sub(" ", _BEFORE.sub(r"\1", text.replace(OPEN, "").replace(CLOSE, ""))).strip()


def outside_values(text: str, change: Callable[[str], str]) -> str:
    """Applies `change` to everything but the fenced values."""
    pieces = re.split(f"({OPEN}[^{CLOSE}]*{CLOSE})", text)
    return "".join(p if i % 2 else change(p) for i, p in enumerate(pieces))
