"""NeMo AutoModel on this machine: LoRA lowers the loss, resumes after a kill, and merges without a change."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from throughline.contracts.errors import CheckpointError, ConfigError, DataError, InternalError
from throughline.contracts.training import PeftSpec, TrackingSpec, TrainerSpec

pytestmark = pytest.mark.integration
PEFT = PeftSpec(dim=8, alpha=16)
TRAINER = TrainerSpec(
    max_tokens=0,
    max_steps=30,
    global_batch_size=4,
    local_batch_size=4,
    lr=5e-3,
    lr_warmup_steps=2,
    val_every_steps=15,
    ckpt_every_steps=5,
)
TRACKING = TrackingSpec(enabled=False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records with one long beginning whose answer repeats the token before it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = tmp_path_factory.mktemp("dataset")
    beginning = list(range(10, 40))
    for name, values in (("train", range(50, 170)), ("validation", range(170, 190))):
        ids = [[*beginning, value, value, 2] for value in values]
        labels = [[-100] * (len(beginning) + 1) + row[-2:] for row in ids]
        pq.write_table(pa.table({"input_ids": ids, "labels": labels}), out / f"{name}.parquet")
    return out


def fit(dataset: Path, base: Path, out: Path, **more: Any) -> Any:
    from throughline.training.sft import fit_lora

    options = {"peft": PEFT, "trainer": TRAINER, "tracking": TRACKING, "on_step": lambda *_: None} | more
    return fit_lora(dataset, base, out, **options)


def test_lora_learns_and_merges_exactly(dataset: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from throughline.training.merge import merge

    seen: list[int] = []
    probed: list[float] = []

    def probe(model: Any) -> dict[str, float]:
        probed.append(float(sum(p.numel() for p in model.parameters() if p.requires_grad)))
        return {"probe/x": 0.5}

    out = tmp_path / "adapter"
    report = fit(dataset, tiny_checkpoint, out, on_step=lambda step, of, metrics: seen.append(step), probe=probe)
    assert seen == list(range(1, 31))
    curves = json.loads((out / "training.json").read_text())
    # The same records at each validation; packs of training differ too much to compare one with another.
    first, *_, last = (row["val_loss"] for row in curves["validation"])
    assert last < first
    assert report.validation_loss == curves["validation"][-1]["val_loss"]
    assert curves["validation"][-1]["probe/x"] == 0.5
    assert probed
    assert min(probed) > 0
    assert not (out / "work").exists()
    adapter_config = json.loads((out / "adapter_config.json").read_text())
    assert adapter_config["r"] == 8
    # After training nothing of torch is left changed.
    assert not torch.cuda.is_available()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.cuda.current_device()

    merged = tmp_path / "merged"
    assert merge(tiny_checkpoint, out, merged, dtype="float32") < 1e-3
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, out).eval()
    tokens = torch.arange(20, 60)[None]
    with torch.inference_mode():
        wanted = tuned(tokens).logits
        found = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)(tokens).logits
    assert torch.allclose(wanted, found, atol=1e-3)
    assert (merged / "tokenizer.json").is_file()
    assert (merged / "LICENSE").read_text() == (tiny_checkpoint / "LICENSE").read_text()


def adapter_for(base: Path, out: Path) -> Path:
    """An adapter of random weights: its effect is large, whatever training would have made of it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=names))
    for name, weights in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.1)
    tuned.save_pretrained(out)
    return out


def test_rounding_of_large_logits_is_no_fault_of_a_merge(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Trained models have larger logits than random ones, and their rounding grows with them."""
    from safetensors.torch import load_file, save_file

    from throughline.training.merge import merge

    base = tmp_path / "base"
    shutil.copytree(tiny_checkpoint, base)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] *= 1e5
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert 0 < merge(base, adapter_for(base, tmp_path / "adapter"), tmp_path / "merged") < 1e-5


def test_a_merge_that_leaves_a_module_out_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora import Linear

    from throughline.training.merge import merge

    adapter = adapter_for(tiny_checkpoint, tmp_path / "adapter")
    real = Linear.merge
    left_out: list[Linear] = []

    def merge_but_one(self: Linear, *arguments: Any, **options: Any) -> None:
        if left_out:
            real(self, *arguments, **options)
        left_out.append(self)

    monkeypatch.setattr(Linear, "merge", merge_but_one)
    with pytest.raises(InternalError, match="merging changed the model"):
        merge(tiny_checkpoint, adapter, tmp_path / "merged")
    assert len(left_out) > 7
    assert not (tmp_path / "merged").exists()


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from tests.integration.test_training import PEFT, TRACKING, TRAINER
from throughline.training.sft import fit_lora

def on_step(step, of, metrics):
    if step == 12:
        os.kill(os.getpid(), getattr(signal, sys.argv[4]))

data, base, out = map(Path, sys.argv[1:4])
fit_lora(data, base, out, peft=PEFT, trainer=TRAINER, tracking=TRACKING, on_step=on_step)
"""


def signalled(
    dataset: Path, base: Path, out: Path, name: str, script: str = SIGNALLED
) -> subprocess.CompletedProcess[str]:
    """Trains in a process of its own, which gets a signal after its twelfth step."""
    command = [sys.executable, "-c", script, str(dataset), str(base), str(out), name]
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_a_killed_run_goes_on_from_its_newest_checkpoint(dataset: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    out = tmp_path / "adapter"
    done = signalled(dataset, tiny_checkpoint, out, "SIGKILL")
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert not (out / "adapter_model.safetensors").exists()
    seen: list[int] = []
    fit(dataset, tiny_checkpoint, out, on_step=lambda step, of, metrics: seen.append(step))
    assert seen == list(range(11, 31))
    whole = tmp_path / "whole"
    fit(dataset, tiny_checkpoint, whole)
    resumed, straight = (load_file(folder / "adapter_model.safetensors") for folder in (out, whole))
    assert resumed.keys() == straight.keys()
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, msg=name)
    # Validated after step 15, killed after step 12, gone on from step 10: no hole, no step twice.
    curves = json.loads((out / "training.json").read_text())
    assert [row["step"] for row in curves["train"]] == list(range(30))
    assert [row["step"] for row in curves["validation"]] == [14, 29]
    for name in ("train", "validation"):
        again = [row.get("loss", row.get("val_loss")) for row in curves[name]]
        once = json.loads((whole / "training.json").read_text())[name]
        assert again == pytest.approx([row.get("loss", row.get("val_loss")) for row in once], rel=1e-4)


def test_the_last_step_is_validated_whatever_the_interval(dataset: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """With 12 steps and a validation every 5 the reported loss was that of step 10."""
    trainer = TRAINER.model_copy(update={"max_steps": 12, "val_every_steps": 5})
    report = fit(dataset, tiny_checkpoint, tmp_path / "adapter", trainer=trainer)
    assert [row["step"] for row in report.curves.validation] == [4, 9, 11]
    assert report.validation_loss == report.curves.validation[-1]["val_loss"]
    assert report.steps == 12


ENDED_EARLY = """
import os, sys
from pathlib import Path
from tests.integration.test_training import PEFT, TRACKING, TRAINER
from throughline.training import sft

sft.shutil.rmtree = lambda *arguments, **options: os._exit(9)
data, base, out = map(Path, sys.argv[1:4])
sft.fit_lora(data, base, out, peft=PEFT, trainer=TRAINER, tracking=TRACKING, on_step=lambda *_: None)
"""


def test_a_finished_training_is_not_run_again(dataset: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A kill between the end of training and the stage's commit cost the whole training."""
    out = tmp_path / "adapter"
    assert signalled(dataset, tiny_checkpoint, out, "", script=ENDED_EARLY).returncode == 9
    assert (out / "work").is_dir()
    report = fit(dataset, tiny_checkpoint, out, on_step=lambda *_: pytest.fail("trained again"))
    assert (report.steps, report.records) == (30, 120)
    assert not (out / "work").exists()
    assert report.validation_loss == report.curves.validation[-1]["val_loss"]


def test_a_run_that_is_told_to_end_is_not_taken_for_a_finished_one(
    dataset: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    done = signalled(dataset, tiny_checkpoint, tmp_path, "SIGTERM")
    assert "KeyboardInterrupt: training was told to stop" in done.stderr, done.stderr[-2000:]
    assert not (tmp_path / "adapter_model.safetensors").exists()
    seen: list[int] = []
    fit(dataset, tiny_checkpoint, tmp_path, on_step=lambda step, of, metrics: seen.append(step))
    assert seen[-1] == 30
    assert seen[0] > 10


def test_two_processes_make_one_adapter_the_same_as_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Under torchrun every rank took the stage's lock, and the first one waited for the others for ever."""
    from safetensors.torch import load_file

    from recipes import app, data
    from throughline.artifacts import ArtifactStore

    source = tmp_path / "r.jsonl"
    rows = [{"prompt": f"what is {n * 7919}?", "completion": f"it is {n * 31}"} for n in range(60)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = ["model=hf", f"model.path={tiny_checkpoint}"]
    options = [
        "trainer.global_batch_size=8",
        "trainer.local_batch_size=4",
        "trainer.max_steps=4",
        "trainer.max_tokens=0",
    ]
    options += ["trainer.num_threads=1", "trainer.probe_size=0", "trainer.lr_warmup_steps=1", "tracking=none"]
    root = Path(__file__).resolve().parents[2]
    environment = {key: value for key, value in os.environ.items() if key != "THROUGHLINE_HOME"}
    environment |= {"PYTHONPATH": f"{root / 'src'}:{root}"}
    adapters = []
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    for name, launcher in (("two", torchrun), ("one", [])):
        home = f"paths.home={tmp_path / name}"
        wanted = ["data=files", f"data.source={source}", "data.default_licence=own", "data.validation_share=0.2"]
        wanted += [home, *model]
        data.make(app.to_schema(app.compose("data", wanted), data.Config))
        command = [sys.executable, "-m", *launcher, "recipes.train", home, *model, *options]
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        # The adapter and the merged checkpoint, by one rank.
        assert done.stdout.count("made  ") == 2
        store = ArtifactStore(tmp_path / name)
        (adapter,) = store.all("adapter")
        assert len([item for item in store.all("checkpoint") if item.manifest.inputs]) == 1
        assert [path for path in (store.home / ".staging").iterdir() if path.is_dir()] == []
        curves = json.loads((adapter.path / "training.json").read_text())
        assert len(curves["train"]) == 4
        assert curves["validation"][-1]["val_loss"] > 0
        adapters.append(load_file(adapter.path / "adapter_model.safetensors"))
    two, one = adapters
    assert two.keys() == one.keys()
    for name, value in one.items():
        assert float((two[name] - value).abs().max()) < 1e-5 * float(value.abs().max()) + 1e-9, name


def test_ranks_that_cannot_share_a_step_are_refused(
    dataset: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"global_batch_size.*4, with 3 ranks.*multiple of 12"):
        fit(dataset, tiny_checkpoint, tmp_path)
    # 20 records make 5 packs.
    monkeypatch.setenv("WORLD_SIZE", "6")
    trainer = TRAINER.model_copy(update={"global_batch_size": 24})
    with pytest.raises(DataError, match=r"too small for all ranks.*5 packs.*6 ranks"):
        fit(dataset, tiny_checkpoint, tmp_path, trainer=trainer)
    assert list(tmp_path.iterdir()) == []


def test_the_estimate_comes_first_and_leaves_the_run_as_it_was(
    dataset: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    heard: list[str] = []
    short = TRAINER.model_copy(update={"max_steps": 3})
    seconds: list[float] = []
    options: dict[str, Any] = {"trainer": short, "on_step": lambda *_: heard.append("step")}
    asked = fit(
        dataset,
        tiny_checkpoint,
        tmp_path / "asked",
        on_estimate=lambda value: (heard.append("estimate"), seconds.append(value)),
        **options,
    )
    assert heard == ["estimate", "step", "step", "step"]
    assert seconds[0] > 0
    silent = fit(dataset, tiny_checkpoint, tmp_path / "silent", **options)
    assert [row["loss"] for row in asked.curves.train] == [row["loss"] for row in silent.curves.train]
    assert (asked.records, asked.tokens) == (12, 12 * 33)


def test_an_adapter_of_another_base_is_refused(dataset: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from throughline.training.merge import merge

    out = tmp_path / "adapter"
    fit(dataset, tiny_checkpoint, out, trainer=TRAINER.model_copy(update={"max_steps": 2}))
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    config.hidden_size, config.head_dim = 128, 32
    other = tmp_path / "other"
    AutoModelForCausalLM.from_config(config).save_pretrained(other)
    with pytest.raises(CheckpointError, match="does not fit the base"):
        merge(other, out, tmp_path / "merged")
