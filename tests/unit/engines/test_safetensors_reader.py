"""The numpy reader agrees with torch bit for bit, and names the file that is missing or cut short."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from throughline.contracts.errors import CheckpointError
from throughline.engines.safetensors_reader import SafetensorsFolder, bf16_to_f32, f32_to_bf16

ARRAYS: dict[str, npt.NDArray[np.generic]] = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "b": np.array([1.5, -2.25], np.float16),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(ARRAYS, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_tensors_come_back_in_float32(folder: Path) -> None:
    reader = SafetensorsFolder(folder)
    assert set(reader) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(reader.f32(name), array.astype(np.float32))
        assert reader.f32(name).dtype == np.float32
    assert "a" in reader
    assert "c" not in reader
    assert sum(entry.size for entry in reader.entries.values()) == 14


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_bf16_rounds_as_torch_does(values: list[float]) -> None:
    import torch

    array = np.array(values, np.float32)
    expected = torch.from_numpy(array).bfloat16().float().numpy()
    np.testing.assert_array_equal(bf16_to_f32(f32_to_bf16(array)), expected)


def test_shards_are_found_through_their_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    save_file({"c": np.ones(3, np.float32)}, folder / "two.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "c": "two.safetensors"}}))
    reader = SafetensorsFolder(folder)
    assert {"a", "b", "c"} <= set(reader)
    (folder / "two.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"shards of the checkpoint are missing.*two\.safetensors"):
        SafetensorsFolder(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"missing.*\.\./one\.safetensors"):
        SafetensorsFolder(folder)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="shard index cannot be read"):
        SafetensorsFolder(folder)


@pytest.mark.parametrize("kept", [0, 4, 9, 40, -1])
def test_a_truncated_file_is_damaged(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"safetensors file is damaged.*model\.safetensors"):
        SafetensorsFolder(folder)


@pytest.mark.parametrize("header", [b"[]", b"{", b'{"a": {}}', b'{"a": 3}', b"\xff"])
def test_a_header_that_makes_no_sense_is_damaged(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="safetensors file is damaged"):
        SafetensorsFolder(tmp_path)


def test_missing_weights_and_foreign_types_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        SafetensorsFolder(tmp_path / "nowhere")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no safetensors weights.*pytorch_model\.bin"):
        SafetensorsFolder(tmp_path)
    save_file({"q": np.zeros(4, np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor type is not supported.*model\.safetensors:q.*I8"):
        SafetensorsFolder(tmp_path)


def test_the_digest_follows_weights_and_config(folder: Path) -> None:
    before = SafetensorsFolder(folder).digest()
    assert SafetensorsFolder(folder).digest() == before
    (folder / "config.json").write_text('{"x": 1}')
    assert SafetensorsFolder(folder).digest() != before
