"""The data recipe on a user's own files: what makes a new dataset, and the acceptance set it holds out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipes import app, data
from throughline.contracts.data import DataSpec


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(home: Path, base: Path, source: str, acceptance: str | None = None) -> data.Config:
    spec = DataSpec(
        source=source, acceptance=acceptance, default_task="chat", default_licence="own", validation_share=0.2
    )
    model = app.ModelSpec(source="hf", name="tiny", path=base)
    return data.Config(profile="laptop", paths=app.PathsSpec(home=home), model=model, data=spec)


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THROUGHLINE_HOME", raising=False)


def test_files_of_one_name_in_two_folders_both_count(tmp_path: Path, tiny_checkpoint: Path) -> None:
    rows = [{"prompt": f"what is {n * 7919}?", "completion": f"it is {n}"} for n in range(20)]
    first, second = write(tmp_path / "a" / "r.jsonl", *rows[:10]), write(tmp_path / "b" / "r.jsonl", *rows[10:])
    asked = config(tmp_path / "home", tiny_checkpoint, f"{first},{second}")
    made = data.make(asked)
    assert data.make(asked).digest == made.digest
    assert made.manifest.metrics["split_off"].startswith("2 of 20 records are held out")
    assert len((made.path / "acceptance.jsonl").read_text().splitlines()) == 2
    write(first, *rows[1:10])
    assert data.make(asked).digest != made.digest


def test_an_acceptance_set_of_the_users_own_is_taken(tmp_path: Path, tiny_checkpoint: Path) -> None:
    rows = [{"prompt": f"what is {n * 7919}?", "completion": f"it is {n}"} for n in range(20)]
    test = write(tmp_path / "t.jsonl", {"prompt": "which animal is this?", "completion": "a horse"})
    made = data.make(config(tmp_path / "home", tiny_checkpoint, str(write(tmp_path / "r.jsonl", *rows)), str(test)))
    assert made.manifest.metrics["split_off"] == ""
    (question,) = map(json.loads, (made.path / "acceptance.jsonl").read_text().splitlines())
    assert question["expected"] == {"messages": [{"role": "assistant", "content": "a horse"}]}


def test_the_terms_of_the_records_are_the_dataset_s(tmp_path: Path, tiny_checkpoint: Path) -> None:
    rows = [{"prompt": f"what is {n * 7919}?", "completion": f"it is {n}"} for n in range(20)]
    rows[3] |= {"licence": "CC-BY-4.0"}
    made = data.make(config(tmp_path / "home", tiny_checkpoint, str(write(tmp_path / "r.jsonl", *rows))))
    assert made.manifest.licences == ("CC-BY-4.0", "own")
