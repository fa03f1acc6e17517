"""The phrase writer: expands the templates of `phrases` for one document, keeping bound values stable."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from typing import TypeVar

from throughline.lab.entities import Entities, Split
from throughline.lab.phrases import BANKS

_SLOT = re.compile(r"\{(~?[A-Za-z_]+\d?)\}")
T = TypeVar("T")


@cache
def _parse(template: str) -> tuple[tuple[bool, str], ...]:
    pieces: list[tuple[bool, str]] = []
    for i, part in enumerate(_SLOT.split(template)):
        if part:
            pieces.append((i % 2 == 1, part))
    return tuple(pieces)


class Writer:
    """Writes text for one document after another; `begin` forgets the values of the last one."""

    def __init__(self, rng: Random, split: Split) -> None:
        self.rng = rng
        self.e = Entities(rng, split)
        self.bound: dict[str, str] = {}
        e = self.e
        self._make: dict[str, Callable[[], str]] = {
            "code": e.code,
            "gpu": e.any_gpu,
            "host": e.host,
            "person": e.person,
            "given": self._given,
            "company": e.company,
            "email": self._email,
            "username": self._username,
            "phone": e.phone,
            "ip": e.ip,
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
            "product": e.product,
            "small": self._small,
            "port": self._port,
        }

    def _small(self) -> str:
        return str(int(2 + self.rng.random() ** 2 * 97))

    def _port(self) -> str:
        return str(1024 + int(self.rng.random() * 60000))

    def _given(self) -> str:
        return self.get("person").split(" ", 1)[0]

    def _email(self) -> str:
        return self.e.email(self.get("person"), self.get("company"))

    def _username(self) -> str:
        return self.e.username(self.get("person"))

    def begin(self) -> None:
        """Starts a new document."""
        self.bound = {}

    def fresh(self, name: str) -> str:
        """A new value of an entity; a fresh given name or user name does not belong to the bound person."""
        if name == "given":
            return self.e.given()
        if name == "username":
            return self.e.username()
        if name == "email":
            return self.e.email()
        return self._make[name]()

    def get(self, name: str) -> str:
        """The document's own value of an entity, drawn at its first use; `code2` is another code."""
        value = self.bound.get(name)
        if value is None:
            value = self._make[name.rstrip("0123456789")]()
            self.bound[name] = value
        return value

    def say(self, template: str) -> str:
        """The template with every slot filled."""
        out: list[str] = []
        for is_slot, part in _parse(template):
            if not is_slot:
                out.append(part)
            elif part[0] == "~":
                out.append(self.fresh(part[1:]))
            elif part.isupper() or part in BANKS:
                out.append(self.bank(part))
            else:
                out.append(self.get(part))
        return "".join(out)

    def bank(self, name: str) -> str:
        """A phrase of the bank, expanded."""
        return self.say(self.pick(BANKS[name]))

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[int(self.rng.random() * len(options))]

    def chance(self, p: float) -> bool:
        """True with probability `p`."""
        return self.rng.random() < p

    def between(self, low: int, high: int) -> int:
        """An integer from low to high, both possible."""
        return low + int(self.rng.random() * (high - low + 1))
