"""Folders without a fault, of each kind that the linter reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import trtllm


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine directory of two ranks."""
    return trtllm.write_engine(tmp_path)


@pytest.fixture
def repository(tmp_path: Path, engine: Path) -> Path:
    """A repository in the `inflight_batcher_llm` layout."""
    return trtllm.write_repository(tmp_path, engine)


@pytest.fixture
def llmapi(tmp_path: Path) -> Path:
    """A repository with the `llmapi` model."""
    return trtllm.write_llmapi(tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A quantised checkpoint in two shards, with the report of our own quantisation."""
    folder = trtllm.write_checkpoint(tmp_path)
    (folder / "quant_report.json").write_text('{\n "quant_algo": "FP8",\n "status": "scored"\n}\n')
    return folder
