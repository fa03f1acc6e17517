"""Where personal data and secrets stand in a text; formats as their issuers publish them.

Recall and precision by kind on formats that our own generator never writes: `tests/unit/data/test_pii.py`.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A value found: its kind and where it is in the text."""

    kind: str
    start: int
    end: int
    value: str


# Between groups of digits: blanks, also those that word processors put there, dots and dashes.
_GAP = "[ \u00a0\u2009\u202f.-]"
# Local part and domain by RFC 5322 without quotes and comments, RFC 6531 for letters beyond ASCII.
_EMAIL = re.compile(r"(?<![\w.+%'-])[\w.+%'-]+@(?:[\w-]+\.)+[^\W\d_]{2,}(?![^\W_]|[@-])")
_IP4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\d)")
_IP6 = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])")
# North American numbers are told from serial numbers by their groups of 3, 3 and 4 digits.
_NANP = re.compile(
    rf"(?<![\w.-])(?:\+?1{_GAP}?)?(?:\(\d{{3}}\){_GAP}?|\d{{3}}{_GAP})\d{{3}}{_GAP}\d{{4}}(?![\w-]|\.\d)"
)
_GROUPED_DIGITS = re.compile(rf"(?<!\w)\d+(?:{_GAP}\d+)*(?!\w)")
_IBAN = re.compile(rf"(?<!\w)[A-Z]{{2}}\d{{2}}(?:{_GAP}?[A-Z0-9]{{1,4}}){{3,8}}(?!\w)")

# Issuer → first digits and lengths of its numbers, the usual length first (ISO/IEC 7812 ranges as the issuers publish
# them: Visa, Mastercard with its 2-series, American Express, Diners Club, Discover, JCB, UnionPay, Mir, Maestro and its
# kin, which begin with any 5 or 6).
_CARDS: tuple[tuple[re.Pattern[str], tuple[int, ...]], ...] = (
    (re.compile("4"), (16, 13, 19)),
    (re.compile("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    (re.compile("3[47]"), (15,)),
    (re.compile("30[0-5]|36|3[89]"), (14, 16)),
    (re.compile("6011|64[4-9]|65"), (16, 19)),
    (re.compile("352[89]|35[3-8]"), (16,)),
    (re.compile("62"), (16, 17, 18, 19)),
    (re.compile("220[0-4]"), (16,)),
    (re.compile("[56]"), (16, 18, 19)),
)
# Country → length, from the IBAN registry of SWIFT; others are taken at any length that checks.
_IBAN_LENGTHS: Mapping[str, int] = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})(\d{2})",
        "NO15 BE16 DK18 FI18 NL18 SI19 AT20 EE20 LU20 LT20 CH21 HR21 LI21 LV21 BG22 DE22 GB22 IE22 ME22 RS22 GE22 "
        "AE23 GI23 IL23 AD24 CZ24 ES24 RO24 SA24 SE24 SK24 TN24 PT25 FR27 GR27 IT27 MC27 SM27 AL28 CY28 HU28 LB28 "
        "PL28 BR29 QA29 UA29 JO30 KW30 MU30 MT31",
    )
}

# What detect-secrets has no rule for, or whose rule leaves part of the secret: Google, GitHub's fine-grained tokens,
# Hugging Face, NVIDIA NGC, OpenAI and Anthropic by prefix, Stripe's test keys, npm, JWTs with their signature, whole
# PEM blocks, passwords in addresses.
_OWN_SECRETS = tuple(
    re.compile(text, re.DOTALL)
    for text in (
        r"(?<!\w)(?:sk-[\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{16,}|github_pat_\w{20,}|nvapi-[\w-]{16,}|npm_\w{30,})",
        r"(?<!\w)(?:AIza[\w-]{35}|ya29\.[\w-]{20,}|xox[abeoprs]-[\w-]{10,}|xapp-[\w-]{10,}|[rs]k_(?:live|test)_\w{16,})",
        r"(?<!\w)eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?",
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
        r"(?<=://)[^\s:/@]+:[^\s:/@]+(?=@)",
    )
)
# Plugins of detect-secrets whose rules match the secret itself; the rest goes by variable names and entropy, which
# would blacken half of a log.
_PLUGINS = (
    "aws.AWSKeyDetector",
    "azure_storage_key.AzureStorageKeyDetector",
    "discord.DiscordBotTokenDetector",
    "github_token.GitHubTokenDetector",
    "gitlab_token.GitLabTokenDetector",
    "mailchimp.MailchimpDetector",
    "openai.OpenAIDetector",
    "pypi_token.PypiTokenDetector",
    "sendgrid.SendGridDetector",
    "slack.SlackDetector",
    "square_oauth.SquareOAuthDetector",
    "stripe.StripeDetector",
    "telegram_token.TelegramBotTokenDetector",
    "twilio.TwilioKeyDetector",
)


def emails(text: str) -> Iterator[Finding]:
    """Yields e-mail addresses."""
    if "@" in text:
        yield from (Finding("email", m.start(), m.end(), m.group()) for m in _EMAIL.finditer(text))


def phones(text: str) -> Iterator[Finding]:
    """Yields telephone numbers in North American groups, and any in international form."""
    yield from (Finding("phone", m.start(), m.end(), m.group()) for m in _NANP.finditer(text))
    # Else only numbers in international form: without the plus sign every serial number would be one.
    if "+" not in text:
        return
    import phonenumbers

    matcher = phonenumbers.PhoneNumberMatcher(text, None, leniency=phonenumbers.Leniency.POSSIBLE)
    while matcher.has_next():
        match = matcher.next()
        yield Finding("phone", match.start, match.end, match.raw_string)


def ips(text: str) -> Iterator[Finding]:
    """Yields IPv4 and IPv6 addresses."""
    for pattern in (_IP4, _IP6):
        for match in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(match.group())
            except ValueError:
                continue
            # `::` alone is code in many languages, not an address.
            if address.version == 4 or len(match.group()) > 4:
                yield Finding("ip", match.start(), match.end(), match.group())


def cards(text: str) -> Iterator[Finding]:
    """Yields card numbers: an issuer's first digits and length, and Luhn's check; what follows (a date) is left out."""
    for run in _GROUPED_DIGITS.finditer(text):
        spans = [match.span() for match in re.finditer(r"\d+", run.group())]
        at = 0
        while at < len(spans):
            last = _card_end(run.group(), spans, at)
            if last is None:
                at += 1
                continue
            start, end = run.start() + spans[at][0], run.start() + spans[last][1]
            yield Finding("credit_card", start, end, text[start:end])
            at = last + 1


def _card_end(text: str, spans: list[tuple[int, int]], first: int) -> int | None:
    """The index of the last group of a card number that begins with group `first`, or None."""
    by_length: dict[int, tuple[int, str]] = {}
    digits = ""
    for index in range(first, len(spans)):
        digits += text[slice(*spans[index])]
        if len(digits) > 19:
            break
        by_length[len(digits)] = (index, digits)
    for start, lengths in _CARDS:
        for length in lengths:
            index, number = by_length.get(length, (0, ""))
            if number and start.match(number) and luhn_valid(number):
                return index
    return None


def luhn_valid(digits: str) -> bool:
    """Whether a digit string passes the Luhn check (ISO/IEC 7812-1, annex B)."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def ibans(text: str) -> Iterator[Finding]:
    """Yields international bank account numbers whose check digits are right (ISO 13616, mod 97)."""
    for match in _IBAN.finditer(text):
        ends = [item.end() for item in re.finditer(r"[A-Z0-9]+", match.group())]
        for end in reversed(ends):
            value = match.group()[:end]
            if iban_valid(re.sub(_GAP, "", value)):
                yield Finding("iban", match.start(), match.start() + end, value)
                break


def iban_valid(text: str) -> bool:
    """Whether an IBAN without blanks has its country's length and the right check digits."""
    if len(text) != _IBAN_LENGTHS.get(text[:2], len(text)) or not 15 <= len(text) <= 34:
        return False
    return int("".join(str(int(letter, 36)) for letter in text[4:] + text[:4])) % 97 == 1


def secrets(text: str) -> Iterator[Finding]:
    """Yields credentials by the rules of detect-secrets and by prefixes that it does not know."""
    for pattern in (*_OWN_SECRETS, *_library_rules()):
        for match in pattern.finditer(text):
            # A rule's one group is the secret where names stand around it, else a choice of prefixes.
            whole = match.group().lower().startswith("aws") and match.lastindex
            start, end = match.span(1 if whole else 0)
            yield Finding("api_key", start, end, text[start:end])


@functools.cache
def _library_rules() -> tuple[re.Pattern[str], ...]:
    import importlib

    rules: list[re.Pattern[str]] = []
    for name in _PLUGINS:
        module, plugin = name.split(".")
        rules += getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), plugin).denylist
    return tuple(rules)


DETECTORS: Mapping[str, Callable[[str], Iterator[Finding]]] = {
    "email": emails,
    "phone": phones,
    "ip": ips,
    "credit_card": cards,
    "iban": ibans,
    "api_key": secrets,
}
