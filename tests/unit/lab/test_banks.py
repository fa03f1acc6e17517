"""What a person who extends the phrase banks is told when something does not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from throughline.contracts.errors import ConfigError
from throughline.lab import banks
from throughline.lab.phrases import PhraseSampler

LOADERS = (banks.triage, banks._shifted)


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Callable[[Any], None]], None]]:
    """Changes a bank as a person would change its file."""
    original = banks.raw

    def edit(name: str, change: Callable[[Any], None]) -> None:
        values = copy.deepcopy(original(name))
        change(values)
        monkeypatch.setattr(banks, "raw", lambda asked: values if asked == name else original(asked))
        for loader in LOADERS:
            loader.cache_clear()

    yield edit
    monkeypatch.undo()
    for loader in LOADERS:
        loader.cache_clear()


def test_a_voice_without_a_value_is_named(edited: Any) -> None:
    edited("triage", lambda bank: bank["voices"]["english"]["cues"].pop("medium"))
    with pytest.raises(ConfigError, match=r"triage\.yaml:voices\.english\.cues.*missing: medium; unknown: none"):
        banks.triage()


def test_a_voice_with_an_unknown_value_is_named(edited: Any) -> None:
    edited("shifted", lambda bank: bank["triage"]["german"]["wishes"].update(reset=["Bitte neu starten."]))
    with pytest.raises(ConfigError, match=r"shifted\.yaml:triage\.german\.wishes.*unknown: reset"):
        banks.voices("shifted")


def test_a_layout_that_hides_what_decides_a_label_is_named(edited: Any) -> None:
    edited("triage", lambda bank: bank["voices"]["english"]["layouts"].append("{symptom} {cue}"))
    with pytest.raises(ConfigError, match=r"layouts.*\{wish\} is missing in the layout '\{symptom\} \{cue\}'"):
        banks.triage()


def test_a_slot_that_nothing_fills_is_named() -> None:
    with pytest.raises(ConfigError, match=r"entities\.yaml.*\{hosts\}.*did you mean 'host'"):
        PhraseSampler(Random(0), "train").fill("The disk of {hosts} is full.")


def test_a_file_that_is_no_yaml_is_named_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "banks").mkdir()
    (tmp_path / "banks" / "triage.yaml").write_text("cues:\n  - It says: stop: now\n  - {host} is down.\n")
    monkeypatch.setattr(banks, "files", lambda _: tmp_path)
    with pytest.raises(ConfigError, match=r"lab/banks/triage\.yaml.*line [23]"):
        banks.raw("triage")
