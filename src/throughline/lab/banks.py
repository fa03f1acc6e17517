"""The phrase banks: YAML files that a person reads and extends, checked when they are loaded."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Field

from throughline.contracts.config import StrictModel, parse

SetName = Literal["train", "probe", "acceptance", "shifted"]
Phrases = Annotated[tuple[str, ...], Field(min_length=1)]
M = TypeVar("M", bound=StrictModel)


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
    """Returns `banks/<name>.yaml` as plain values."""
    return yaml.safe_load(files(__package__).joinpath("banks", f"{name}.yaml").read_text(encoding="utf-8"))


def _load(model: type[M], name: str) -> M:
    return parse(model, raw(name), where=f"lab/banks/{name}.yaml")


@cache
def entities() -> EntityBank:
    """Returns the names and numbers."""
    return _load(EntityBank, "entities")


@cache
def triage() -> TriageBank:
    """Returns the rules of triage and the voices of training and acceptance."""
    return _load(TriageBank, "triage")


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
def _grounded() -> GroundedBank:
    return _load(GroundedBank, "grounded")


@cache
def _refusal() -> RefusalBank:
    return _load(RefusalBank, "refusal")


@cache
def _shifted() -> ShiftedBank:
    return _load(ShiftedBank, "shifted")
