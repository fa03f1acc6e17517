"""Tensors round as torch rounds them, and the file that is missing or cut short is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from throughline.contracts.errors import CheckpointError
from throughline.engines.safetensors_reader import SafetensorsFolder

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


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_every_stored_type_comes_back_as_torch_converts_it(stored: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    generator = torch.Generator().manual_seed(0)
    # Random bit patterns: denormals, infinities, ties and all, but no NaN.
    bits = torch.randint(-(2**31), 2**31 - 1, (4096,), generator=generator, dtype=torch.int64).to(torch.int32)
    values = bits.view(torch.float32)
    tensor = values[~values.isnan()].to(getattr(torch, stored))
    save_torch({"x": tensor}, tmp_path / "model.safetensors")
    reader = SafetensorsFolder(tmp_path)
    np.testing.assert_array_equal(reader.f32("x"), tensor.float().numpy())
    assert reader.f32("x").dtype == np.float32
    rounded = torch.from_numpy(reader.bf16("x").view(np.int16)).view(torch.bfloat16)
    np.testing.assert_array_equal(rounded.float().numpy(), tensor.bfloat16().float().numpy())


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
