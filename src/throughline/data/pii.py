"""Personal data and secrets become numbered placeholders, the same value the same one within a record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from throughline.contracts.data import PII_KINDS
from throughline.contracts.errors import ConfigError
from throughline.contracts.text import did_you_mean
from throughline.data.detectors import DETECTORS, Finding

PLACEHOLDERS = {
    "email": "EMAIL",
    "phone": "PHONE",
    "ip": "IP_ADDRESS",
    "credit_card": "CREDIT_CARD",
    "iban": "IBAN",
    "api_key": "API_KEY",
}
# Of two kinds that begin at one place and are equally long, the one whose check digits leave less to chance.
_RANK = {kind: rank for rank, kind in enumerate(("api_key", "iban", "credit_card", "email", "ip", "phone"))}


def check_kinds(kinds: Sequence[str]) -> None:
    """Raises `ConfigError` for a kind that there is no detector for."""
    for kind in kinds:
        if kind not in PII_KINDS:
            raise ConfigError(
                "unknown kind of personal data",
                where="data.pii",
                seen=kind,
                fix=did_you_mean(kind, PII_KINDS),
            )


def find(text: str, kinds: Sequence[str] = PII_KINDS) -> list[Finding]:
    """Returns what was found, in order; of two that overlap the earlier stays, then the longer."""
    found = [item for kind in kinds for item in DETECTORS[kind](text)]
    found.sort(key=lambda item: (item.start, -item.end, _RANK[item.kind]))
    kept: list[Finding] = []
    for item in found:
        if not kept or item.start >= kept[-1].end:
            kept.append(item)
    return kept


class Redactor:
    """Replaces the findings of one record's texts; `counts` says how many of each kind were replaced."""

    def __init__(self, kinds: Sequence[str] = PII_KINDS) -> None:
        self._kinds = kinds
        self._names: dict[tuple[str, str], str] = {}
        self._numbers: Counter[str] = Counter()
        self.counts: dict[str, int] = {}

    def __call__(self, text: str) -> str:
        """Returns the text with placeholders such as `<EMAIL_1>`."""
        parts: list[str] = []
        at = 0
        for item in find(text, self._kinds):
            parts += [text[at : item.start], self._placeholder(item)]
            at = item.end
        return "".join([*parts, text[at:]])

    def _placeholder(self, item: Finding) -> str:
        self.counts[item.kind] = self.counts.get(item.kind, 0) + 1
        key = (item.kind, item.value)
        if key not in self._names:
            self._numbers[item.kind] += 1
            self._names[key] = f"<{PLACEHOLDERS[item.kind]}_{self._numbers[item.kind]}>"
        return self._names[key]
