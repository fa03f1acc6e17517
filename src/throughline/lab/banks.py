"""The phrase banks: YAML files that a person reads and extends, checked when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, RootModel, field_validator

from throughline.contracts.config import StrictModel, parse
from throughline.contracts.errors import ConfigError

SetName = Literal["train", "probe", "acceptance", "shifted"]
Phrases = Annotated[tuple[str, ...], Field(min_length=1)]
M = TypeVar("M", bound=BaseModel)


class Component(StrictModel):
    """What a component is called in the schema, and what its tickets may ask for (repeated: more often)."""

    definition: str
    actions: Phrases
    severities: Phrases = ("critical", "high", "medium", "low")


class Voice(StrictModel):
    """The phrases of one language or manner of writing, by what they say.

    Attributes:
        share: How often tickets are in this voice, relative to the others.
        typos: Share of the longer words with two letters swapped; never in a value to copy.
        symptoms: Component → sentences.
        cues: Severity → sentences.
        wishes: Action → sentences.
        layouts: Orders of the parts; `{symptom}`, `{cue}` and `{wish}` stand in each of them.
    """

    share: float = Field(default=1.0, gt=0)
    typos: float = Field(default=0.0, ge=0, le=1)
    symptoms: dict[str, Phrases]
    cues: dict[str, Phrases]
    wishes: dict[str, Phrases]
    card: Phrases
    code: Phrases
    greeting: Phrases
    noise: Phrases
    closing: Phrases
    layouts: Phrases

    @field_validator("layouts")
    @classmethod
    def _say_what_decides(cls, layouts: tuple[str, ...]) -> tuple[str, ...]:
        for layout in layouts:
            for part in ("{symptom}", "{cue}", "{wish}"):
                if part not in layout:
                    raise ValueError(f"{part} is missing in the layout {layout!r}; its tickets could not be labelled")
        return layouts


class TriageBank(StrictModel):
    """Values of the tool's fields with their definitions, and the voices that tickets are written in.

    Attributes:
        never: Severity → actions that no customer would ask for with it.
    """

    components: dict[str, Component]
    severities: dict[str, str]
    actions: dict[str, str]
    never: dict[str, Phrases]
    voices: dict[str, Voice]


class Theme(StrictModel):
    """What a document is about: subjects, and attributes with the form of their values."""

    subjects: Phrases
    attributes: dict[str, str]


class GroundedBank(StrictModel):
    """What documents are about, and how passages and questions are worded."""

    themes: dict[str, Theme]
    passages: Phrases
    questions: Phrases


class Category(StrictModel):
    """One field of requests: what is refused and with which offer, and its harmless look-alikes with answers."""

    offer: str
    disallowed: Phrases
    benign: dict[str, str]


class RefusalBank(StrictModel):
    """Requests by category, and what stands around them on both sides."""

    categories: dict[str, Category]
    frames: Phrases
    lead: Phrases
    tail: Phrases
    small_talk: dict[str, str]


class ChatBank(RootModel[Annotated[dict[str, str], Field(min_length=1)]]):
    """Everyday questions and their answers."""


class ShiftedBank(StrictModel):
    """The wording that training never sees, in the same form."""

    triage: dict[str, Voice]
    grounded: GroundedBank
    refusal: RefusalBank


class EntityBank(StrictModel):
    """Names by set, the digits that belong to one set, and the patterns that both go into."""

    digits: dict[SetName, str]
    lists: dict[str, dict[str, Phrases]]
    patterns: dict[str, Phrases]


def raw(name: str) -> Any:
    """Returns `banks/<name>.yaml` as plain values.

    Raises:
        ConfigError: If the file is no YAML.
    """
    try:
        return yaml.safe_load(files(__package__).joinpath("banks", f"{name}.yaml").read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(
            "phrase bank is no YAML",
            where=f"lab/banks/{name}.yaml",
            seen=" ".join(str(error).split()),
            fix="correct the line; a phrase with ': ' or a leading '{' needs quotes",
        ) from None


def _load(model: type[M], name: str) -> M:
    return parse(model, raw(name), where=f"lab/banks/{name}.yaml")


@cache
def entities() -> EntityBank:
    """Returns the names and numbers."""
    return _load(EntityBank, "entities")


@cache
def triage() -> TriageBank:
    """Returns the rules of triage and the voices of training and acceptance."""
    bank = _load(TriageBank, "triage")
    _check_voices(bank, bank.voices, where="lab/banks/triage.yaml:voices")
    return bank


def voices(split: SetName) -> dict[str, Voice]:
    """Returns the voices of a set's tickets."""
    return _shifted().triage if split == "shifted" else triage().voices


def grounded(split: SetName) -> GroundedBank:
    """Returns the passages and questions of a set."""
    return _shifted().grounded if split == "shifted" else _grounded()


def refusal(split: SetName) -> RefusalBank:
    """Returns the requests of a set."""
    return _shifted().refusal if split == "shifted" else _refusal()


@cache
def chat() -> dict[str, str]:
    """Returns everyday questions and their answers, of training alone."""
    return _load(ChatBank, "chat").root


@cache
def _grounded() -> GroundedBank:
    return _load(GroundedBank, "grounded")


@cache
def _refusal() -> RefusalBank:
    return _load(RefusalBank, "refusal")


@cache
def _shifted() -> ShiftedBank:
    bank = _load(ShiftedBank, "shifted")
    _check_voices(triage(), bank.triage, where="lab/banks/shifted.yaml:triage")
    return bank


def _check_voices(bank: TriageBank, voices: dict[str, Voice], *, where: str) -> None:
    """Every voice must be able to say every value, and nothing else.

    Raises:
        ConfigError: With the first voice that cannot.
    """
    wanted: dict[str, Mapping[str, object]] = {
        "symptoms": bank.components,
        "cues": bank.severities,
        "wishes": bank.actions,
    }
    for name, voice in voices.items():
        for part, values in wanted.items():
            found = getattr(voice, part).keys()
            missing, unknown = sorted(values.keys() - found), sorted(found - values.keys())
            if missing or unknown:
                raise ConfigError(
                    "voice does not fit the values of the tool's schema",
                    where=f"{where}.{name}.{part}",
                    seen=f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}",
                    fix="give phrases for each value of lab/banks/triage.yaml, and for no other",
                )
