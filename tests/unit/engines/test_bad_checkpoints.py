"""Bad checkpoints and full disks: every command that starts from a checkpoint says what is wrong and leaves nothing."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recipes import app, build
from throughline import engines
from throughline.artifacts import Artifact, ArtifactStore
from throughline.checkpoints import check_files, check_finite, check_weights, read_tensors
from throughline.contracts.engine import EngineInfo, EngineSpec
from throughline.contracts.errors import CheckpointError, EngineError, StorageError, UserError
from throughline.engines.cpu.openvino_env import openvino
from throughline.linting import Target, lint

ROOT = Path(__file__).resolve().parents[3]
SMALL = ("engine.max_seq_len=64", "engine.kv_cache_bytes=16777216", "engine.num_threads=1")
SPEC = EngineSpec(precision="f32", max_seq_len=64, kv_cache_bytes=2**24, num_threads=1)
SHARDS = tuple(f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
UP = "model.layers.1.mlp.up_proj.weight"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A copy of the tiny checkpoint that a test may break."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "own"))


def cpu(store: ArtifactStore, folder: Path) -> Artifact:
    return build.make(config(store, "quant=f32", *SMALL).model_copy(update={"checkpoint": str(folder)}))


def job(store: ArtifactStore, folder: Path) -> Artifact:
    return build.make_job(config(store, "engine=gpu", "quant=bf16").model_copy(update={"checkpoint": str(folder)}))


def base(store: ArtifactStore, folder: Path) -> Artifact:
    wanted = config(store, "checkpoint=base", "model=hf", "model.path=/nowhere", "quant=f32", *SMALL)
    return build.make(wanted.model_copy(update={"model": wanted.model.model_copy(update={"path": folder})}))


def config(store: ArtifactStore, *overrides: str) -> build.Config:
    found = _composed(overrides)
    return found.model_copy(update={"paths": found.paths.model_copy(update={"home": store.home})})


@functools.cache
def _composed(overrides: tuple[str, ...]) -> build.Config:
    return app.to_schema(app.compose("build", overrides), build.Config)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def weights(folder: Path, **changed: Any) -> None:
    """Saves the checkpoint's tensors again; None leaves one out."""
    tensors = load_file(folder / SINGLE) | changed
    save_file({name: array for name, array in tensors.items() if array is not None}, folder / SINGLE)


def in_shards(folder: Path, lost: str = "") -> None:
    """Splits the weights; the index names `lost` all the same."""
    tensors = load_file(folder / SINGLE)
    places = {name: SHARDS[name.startswith("model.layers.1.")] for name in tensors}
    for shard in SHARDS:
        save_file({name: tensors[name] for name in tensors if places[name] == shard and name != lost}, folder / shard)
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


def truncated(folder: Path) -> None:
    path = folder / SINGLE
    path.write_bytes(path.read_bytes()[:-1000])


def pointer(folder: Path) -> None:
    (folder / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def shard_missing(folder: Path) -> None:
    in_shards(folder)
    (folder / SHARDS[1]).unlink()


def shard_dangling(folder: Path) -> None:
    shard_missing(folder)
    (folder / SHARDS[1]).symlink_to("/nowhere/blob")


def shard_of_another_revision(folder: Path) -> None:
    in_shards(folder, lost=UP)


def not_a_number(folder: Path) -> None:
    array = load_file(folder / SINGLE)[UP]
    array[3, 5:8] = np.nan
    array[4, 0] = -np.inf
    weights(folder, **{UP: array})


def overflown(folder: Path, kind: Any) -> None:
    tensors = {name: array.astype(kind) for name, array in load_file(folder / SINGLE).items()}
    tensors["model.norm.weight"][9] = np.inf
    weights(folder, **tensors)


def larger_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["added_tokens"].append({**values["added_tokens"][0], "id": 2048, "content": "<|more|>"})
    path.write_text(json.dumps(values))


def smaller_tokenizer(folder: Path) -> None:
    """A model of more tokens, which ends at one that this tokenizer does not have."""
    rows = np.zeros((4096, 64), np.float32)
    weights(folder, **{"model.embed_tokens.weight": rows})
    change(folder / "config.json", vocab_size=4096, eos_token_id=4000)
    change(folder / "generation_config.json", eos_token_id=[2, 4000])


def damaged_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text()[:400])


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncated, r"safetensors file is damaged.*model\.safetensors.*not fully covered"),
    "LFS pointer": (pointer, r"is damaged.*a Git LFS pointer of \d+ bytes.*git lfs pull"),
    "shard missing": (shard_missing, rf"shards of the checkpoint are missing.*{SHARDS[1]}"),
    "shard dangling": (shard_dangling, rf"shards of the checkpoint are missing.*{SHARDS[1]}"),
    "shard of another revision": (shard_of_another_revision, rf"lack tensors.*{SHARDS[1]}.*1: {UP}"),
    "index damaged": (lambda folder: (folder / INDEX).write_text("{}"), "shard index cannot be read"),
    "NaN": (
        not_a_number,
        rf"not all finite.*{SINGLE}:{UP}.*3 NaN and 1 infinite of 8,192; .* in 1 of 20 tensors",
    ),
    "infinity in BF16": (lambda folder: overflown(folder, ml_dtypes.bfloat16), "norm.*0 NaN and 1 infinite of 64"),
    "infinity in F16": (lambda folder: overflown(folder, np.float16), "norm.*0 NaN and 1 infinite of 64"),
    "tensor missing": (lambda folder: weights(folder, **{UP: None}), rf"lacks a tensor.*no {UP}"),
    "adapter left": (lambda folder: weights(folder, lora_A=np.zeros(4, np.float32)), "no place for.*lora_A"),
    "quantised": (lambda folder: weights(folder, **{UP: np.zeros((128, 64), np.int8)}), f"type is not.*{UP}.*I8"),
    "another config.json": (
        lambda folder: change(folder / "config.json", intermediate_size=96),
        r"another shape than config\.json says.*\[128, 64\], expected \[96, 64\]",
    ),
    "no size": (
        lambda folder: change(folder / "config.json", num_key_value_heads="two"),
        r"lacks a size.*num_key_value_heads.*'two'",
    ),
    "architecture": (lambda folder: change(folder / "config.json", model_type="gemma3"), "model family.*gemma3"),
    "larger tokenizer": (larger_tokenizer, r"ids that the model's embedding lacks.*id 2048, vocab_size 2048"),
    "smaller tokenizer": (smaller_tokenizer, r"ends at a token.*generation_config\.json.*4000.*largest id is 2047"),
    "damaged tokenizer": (damaged_tokenizer, r"tokenizer cannot be read.*tokenizer\.json"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"no tokenizer\.json"),
    "config is a list": (lambda folder: (folder / "config.json").write_text("[]"), "no JSON object"),
}


def files(folder: Path) -> dict[str, str]:
    """Digests of everything below a folder but the locks of stages, which stay."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("command", [cpu, job, base], ids=lambda command: str(command.__name__))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_checkpoint_is_refused_before_anything_is_written(
    fault: str, command: Callable[[ArtifactStore, Path], Artifact], folder: Path, store: ArtifactStore
) -> None:
    breaks, message = FAULTS[fault]
    breaks(folder)
    with pytest.raises(UserError, match=message) as caught:
        command(store, folder)
    assert caught.value.where and caught.value.fix and caught.value.exit_code == 2
    assert files(store.home) == {}


@pytest.mark.parametrize("fault", ["NaN", "another config.json", "larger tokenizer"])
def test_an_engine_that_was_there_stays(fault: str, folder: Path, tiny_engine: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(tiny_engine, tmp_path / "engine"))
    before = files(out)
    breaks, message = FAULTS[fault]
    breaks(folder)
    with pytest.raises(UserError, match=message):
        engines.build(folder, SPEC, out)
    assert files(out) == before


def test_a_checkpoint_in_shards_and_padded_is_sound(folder: Path, store: ArtifactStore) -> None:
    embedding = load_file(folder / SINGLE)["model.embed_tokens.weight"]
    weights(folder, **{"model.embed_tokens.weight": np.concatenate([embedding, np.zeros((64, 64), np.float32)])})
    change(folder / "config.json", vocab_size=2112)
    in_shards(folder)
    assert job(store, folder).manifest.kind == "build-job"
    assert len(check_weights(folder)) == 20


@pytest.mark.parametrize("place", ["/nowhere/model", "empty"])
def test_a_path_without_a_checkpoint_is_said_to_be_one(place: str, tmp_path: Path, store: ArtifactStore) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no checkpoint here|no safetensors weights.*an empty folder"):
        cpu(store, tmp_path / place)
    assert files(store.home) == {}


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_numbers_that_are_none_are_counted_as_numpy_counts_them(kind: Any, tmp_path: Path) -> None:
    # More than one block is read at a time, and random bits are everything that a type can hold.
    bits = np.random.default_rng(5).integers(0, 256, 3 * 2**20 + 12, np.uint8)
    array = bits.view(kind).reshape(3, -1)
    sound = {"finite": np.ones((7, 5), kind), "scalar": np.ones((), kind), "empty": np.ones(0, kind)}
    save_file(sound, tmp_path / SINGLE)
    heard: list[float] = []
    check_finite(read_tensors(tmp_path), heard.append)
    assert heard == sorted(heard) and heard[-1] == 1
    save_file(sound | {"random": array}, tmp_path / SINGLE)
    wide = array.astype(np.float32)
    nan, infinite = int(np.isnan(wide).sum()), int(np.isinf(wide).sum())
    assert nan and (infinite or kind is np.float32)
    with pytest.raises(CheckpointError, match=f"random.*{nan:,} NaN and {infinite:,} infinite of {array.size:,}"):
        check_finite(read_tensors(tmp_path))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (INDEX, '{"weight_map": []}'),
        (INDEX, '{"weight_map": {"a": 3}}'),
        ("tokenizer.json", '{"model": {"vocab": 3}}'),
        ("tokenizer.json", '{"model": {"vocab": {"a": "b"}}}'),
        ("tokenizer.json", '{"added_tokens": [3]}'),
    ],
)
def test_files_that_make_no_sense_are_found_by_the_linter_too(file: str, text: str, folder: Path) -> None:
    (folder / file).write_text(text)
    assert file in {finding.path.name for finding in lint(folder) if finding.rule.id == "syntax"}
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        check_files(folder)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("truncated", "shards"),
        ("shard missing", "shards"),
        ("shard of another revision", "shards"),
        ("larger tokenizer", "vocabulary"),
        ("damaged tokenizer", "syntax"),
        ("no tokenizer", "tokenizer"),
        ("smaller tokenizer", "tokenizer"),
        ("tensor missing", "tensors"),
        ("adapter left", "tensors"),
        ("another config.json", "tensors"),
        ("no size", "tensors"),
        ("index damaged", "syntax"),
        ("NaN", "finite"),
        ("infinity in BF16", "finite"),
    ],
)
def test_the_linter_finds_it(fault: str, rule: str, folder: Path) -> None:
    assert errors(folder) == set()
    FAULTS[fault][0](folder)
    assert rule in errors(folder)


def errors(folder: Path) -> set[str]:
    return {finding.rule.id for finding in lint(folder, Target(weights=True)) if finding.rule.severity == "error"}


def test_numbers_are_read_only_where_asked(folder: Path) -> None:
    not_a_number(folder)
    assert "finite" not in {finding.rule.id for finding in lint(folder)}


def test_too_small_a_disk_is_seen_before_anything_is_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**30, 2**30 - 4096, 4096))
    with pytest.raises(EngineError, match=r"not enough disk space.*4,096 bytes free"):
        engines.build(tiny_checkpoint, SPEC, tmp_path / "engine")
    assert list(tmp_path.iterdir()) == []


def fails_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the disk full from the moment that the file `name` is written."""
    copyfile, write_text = shutil.copyfile, Path.write_text

    def copy(source: Any, target: Any, **more: Any) -> Any:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))
        return copyfile(source, target, **more)

    def write(path: Path, *values: Any, **more: Any) -> int:
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_text(path, *values, **more)

    def save(model: Any, target: str, **more: Any) -> None:
        if Path(target).name == name:
            Path(target).write_bytes(b"cut short")
            monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**30, 2**30, 0))
            raise RuntimeError("basic_ios::clear: iostream error")
        saved(model, target, **more)

    saved = openvino().save_model
    monkeypatch.setattr(openvino(), "save_model", save)
    monkeypatch.setattr(shutil, "copyfile", copy)
    monkeypatch.setattr(Path, "write_text", write)


@pytest.mark.parametrize(
    "name", ["openvino_model.xml", "tokenizer.json", "golden.json", "ENGINE_CARD.md", "engine.json"]
)
def test_a_disk_that_fills_while_it_is_written_to(
    name: str, tiny_checkpoint: Path, tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, new = Path(shutil.copytree(tiny_engine, tmp_path / "engine")), tmp_path / "new"
    before = files(out)
    for place in (out, new):
        with monkeypatch.context() as patch:
            fails_at(name, patch)
            with pytest.raises(StorageError, match=rf"the disk is full — {place}.*free some space") as caught:
                engines.build(tiny_checkpoint, SPEC, place)
            assert caught.value.exit_code == 2
    assert files(out) == before
    assert not new.exists()


def test_a_stage_on_a_full_disk_leaves_nothing_and_can_be_run_again(
    folder: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fails_at("engine.json", patch)
        with pytest.raises(StorageError, match=r"the disk is full.*\.staging"):
            cpu(store, folder)
    assert files(store.home) == {}
    assert EngineInfo.read(cpu(store, folder).path).architecture == "llama"


FILLS = """
import sys
from pathlib import Path
from throughline import engines
from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import StorageError

def fill(phase, fraction):
    if phase == "graph" and not filler.exists():
        with filler.open("wb", buffering=0) as handle:
            room = int(sys.argv[3])
            handle.write(bytes(24 * 2**20 - room))

disk = Path(sys.argv[1])
filler, out = disk / "filler", disk / "engine"
spec = EngineSpec(precision="f32", max_seq_len=64, kv_cache_bytes=2**24, num_threads=1)
try:
    engines.build(Path(sys.argv[2]), spec, out, fill)
except StorageError as error:
    print(error)
assert not out.exists()
filler.unlink()
engines.build(Path(sys.argv[2]), spec, out)
assert engines.verify(out).ok
"""


@pytest.mark.parametrize("room", [2**18, 900_000])
def test_a_real_disk_that_fills(room: int, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Room for a part of the weights, and for all of them but not for what comes next."""
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=24m none {tmp_path}"
    if subprocess.run([*enter, mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets no user mount a file system")
    script = f'{mount} && exec "$@"'
    command = [sys.executable, "-c", FILLS, str(tmp_path), str(tiny_checkpoint), str(room)]
    done = subprocess.run([*enter, script, "sh", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"the disk is full — {tmp_path}/engine" in done.stdout


@pytest.mark.parametrize(
    ("fault", "arguments", "message"),
    [
        ("NaN", ("recipes.build", "checkpoint={}", *SMALL), "weights are not all finite numbers"),
        ("truncated", ("recipes.build", "checkpoint={}", "engine=gpu"), "safetensors file is damaged"),
        ("no size", ("recipes.plan", "config={}", "gpu=l4"), "lacks a size"),
        ("larger tokenizer", ("recipes.lint", "path={}"), "the embedding has 2048 rows"),
    ],
)
def test_the_command_line_says_it_without_a_traceback(
    fault: str, arguments: tuple[str, ...], message: str, folder: Path, store: ArtifactStore
) -> None:
    FAULTS[fault][0](folder)
    command = [sys.executable, "-m", *(item.format(folder) for item in arguments), f"paths.home={store.home}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert [name for name in files(store.home) if not name.startswith("logs/")] == []
