"""Personal data and secrets become numbered placeholders, the same value the same one within a record."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from throughline.contracts.data import PII_KINDS
from throughline.contracts.errors import ConfigError
from throughline.contracts.text import did_you_mean

PLACEHOLDERS = {
    "email": "EMAIL",
    "phone": "PHONE",
    "ip": "IP_ADDRESS",
    "credit_card": "CREDIT_CARD",
    "api_key": "API_KEY",
}
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[a-zA-Z]{2,}(?![\w@])")
_IP4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_IP6 = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])")
_CARD = re.compile(r"(?<![\w-])(?:\d[ -]?){12,18}\d(?![\w-])")
# North American numbers are told from serial numbers by their fixed punctuation.
_NANP = re.compile(r"(?<![\w-])(?:\(\d{3}\) ?|\d{3}-)\d{3}-\d{4}(?![\w-])")
# Prefixes of widespread credentials: OpenAI, Hugging Face, GitHub, NVIDIA NGC, AWS, Slack.
_KEY = re.compile(
    r"(?<!\w)(?:sk-[\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{16,}|nvapi-[\w-]{16,}|AKIA[0-9A-Z]{16}|xox[abpr]-[\w-]{10,})"
)


@dataclass(frozen=True)
class Finding:
    """A value found: its kind and where it is in the text."""

    kind: str
    start: int
    end: int
    value: str


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


def luhn_valid(digits: str) -> bool:
    """Whether a digit string passes the Luhn check (ISO/IEC 7812-1, annex B)."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def find(text: str, kinds: Sequence[str] = PII_KINDS) -> list[Finding]:
    """Returns what was found, in order; of two that overlap the earlier stays, then the longer."""
    found = [item for kind in kinds for item in _DETECTORS[kind](text)]
    found.sort(key=lambda item: (item.start, -item.end))
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
            number = 1 + sum(kind == item.kind for kind, _ in self._names)
            self._names[key] = f"<{PLACEHOLDERS[item.kind]}_{number}>"
        return self._names[key]


def _emails(text: str) -> Iterator[Finding]:
    if "@" in text:
        yield from (Finding("email", m.start(), m.end(), m.group()) for m in _EMAIL.finditer(text))


def _phones(text: str) -> Iterator[Finding]:
    yield from (Finding("phone", m.start(), m.end(), m.group()) for m in _NANP.finditer(text))
    # Else only numbers in international form: without the plus sign every serial number would be one.
    if "+" not in text:
        return
    import phonenumbers

    matcher = phonenumbers.PhoneNumberMatcher(text, None, leniency=phonenumbers.Leniency.POSSIBLE)
    while matcher.has_next():
        match = matcher.next()
        yield Finding("phone", match.start, match.end, match.raw_string)


def _ips(text: str) -> Iterator[Finding]:
    for pattern in (_IP4, _IP6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match.group())
            except ValueError:
                continue
            # `::` alone is code in many languages, not an address.
            if address.version == 4 or len(match.group()) > 4:
                yield Finding("ip", match.start(), match.end(), match.group())


def _cards(text: str) -> Iterator[Finding]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if luhn_valid(digits) and digits[0] in "3456":
            yield Finding("credit_card", match.start(), match.end(), match.group())


def _keys(text: str) -> Iterator[Finding]:
    yield from (Finding("api_key", m.start(), m.end(), m.group()) for m in _KEY.finditer(text))


_DETECTORS = {"email": _emails, "phone": _phones, "ip": _ips, "credit_card": _cards, "api_key": _keys}
