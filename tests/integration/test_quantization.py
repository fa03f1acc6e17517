"""ModelOpt on a tiny checkpoint: what is exported, what is scored and what is refused, against transformers."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from throughline.contracts.errors import CheckpointError, DataError, EngineError
from throughline.contracts.quantization import QuantReport, QuantSpec
from throughline.linting import lint
from throughline.quantization import Record, compare_sizes, quantize
from throughline.quantization.loss import Answers, compare, losses

pytestmark = pytest.mark.integration
CALIBRATION = tuple(tuple(3 + (row * column) % 200 for column in range(1, 20)) for row in range(1, 5))
HELD_OUT = tuple(
    Record(tuple(3 + (row * 7 + column) % 150 for column in range(12)), (*[-100] * 6, *range(row, row + 6)))
    for row in range(5, 9)
)


def made(checkpoint: Path, out_dir: Path, **settings: Any) -> QuantReport:
    spec = QuantSpec(calib_size=4, **settings)
    return quantize(checkpoint, spec, out_dir, calibration=CALIBRATION, held_out=HELD_OUT)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def test_fp8_is_exported_and_scored(tiny_checkpoint: Path, tmp_path: Path) -> None:
    report = made(tiny_checkpoint, tmp_path, kv_cache_qformat="fp8")
    assert (report.status, report.quant_algo, report.kv_cache_quant_algo) == ("scored", "FP8", "FP8")
    assert report.calibration_records == 4 and report.calibration_tokens == sum(map(len, CALIBRATION))
    original, quantised = weights(tiny_checkpoint), weights(tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    assert quantised[name].dtype == torch.float8_e4m3fn
    scale = quantised[f"{name.removesuffix('weight')}weight_scale"]
    restored = quantised[name].float() * scale
    # E4M3 has three bits of mantissa: half a step is a sixteenth of a value, of the least ones a fixed step; what is
    # rounded is the value in bfloat16.
    bound = original[name].float().abs() * (2**-4 + 2**-7) + scale * 2**-9
    assert bool(((restored - original[name].float()).abs() <= bound).all())
    assert report.weight_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert (tmp_path / "tokenizer.json").read_bytes() == (tiny_checkpoint / "tokenizer.json").read_bytes()
    assert not [item for item in lint(tmp_path) if item.rule.severity == "error"]
    loss = report.loss
    assert loss is not None and loss.records == 4 and loss.tokens == 24
    assert loss.low <= loss.quantised - loss.base <= loss.high or loss.low == loss.high


def test_numbers_that_are_none_are_found_before_anything_is_written(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    tensors = weights(folder)
    tensors["model.layers.1.mlp.up_proj.weight"][0, :3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*3 NaN"):
        made(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_not_called_a_fault_of_the_format(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import modelopt.torch.export as export

    def full(*arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "export_hf_checkpoint", full)
    with pytest.raises(OSError, match="No space left"):
        made(tiny_checkpoint, tmp_path)


def test_the_base_loss_is_transformers_own(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    report = made(tiny_checkpoint, tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.bfloat16)
    total = 0.0
    for record in HELD_OUT:
        with torch.inference_mode():
            found = model(input_ids=torch.tensor([record.input_ids]), labels=torch.tensor([record.labels]))
        total += float(found.loss) * 6
    assert report.loss is not None and report.loss.base == pytest.approx(total / 24, rel=2e-2)


@pytest.mark.parametrize(
    "settings", [{"qformat": "nvfp4"}, {"qformat": "mxfp8"}, {"recipe": "general/ptq/nvfp4_default-kv_fp8"}]
)
def test_what_a_cpu_cannot_compute_is_not_scored(
    tiny_checkpoint: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    report = made(tiny_checkpoint, tmp_path, **settings)
    assert (report.status, report.loss) == ("not scored", None)
    assert (report.calibration_records, report.calibration_tokens) == (0, 0)
    # MXFP8 scales activations as they come and has nothing to calibrate.
    assert [text.startswith("not calibrated") for text in report.warnings] == [True] * (
        "mxfp8" not in settings.values()
    )
    assert not [name for name in weights(tmp_path) if name.endswith("input_scale")]
    (tmp_path / "quant_report.json").write_text(report.model_dump_json())
    assert [item.rule.id for item in lint(tmp_path) if item.rule.severity == "error"] == ["unscored"]


@pytest.mark.parametrize("qformat", ["fp8", "int8_sq"])
def test_float32_arithmetic_exports_what_bfloat16_does(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qformat: str
) -> None:
    found = {}
    for fast in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda fast=fast: fast)
        report = made(tiny_checkpoint, tmp_path / str(fast), qformat=qformat)
        found[fast] = weights(tmp_path / str(fast))
        assert report.status == "scored"
    assert {name: item.dtype for name, item in found[True].items()} == {
        name: item.dtype for name, item in found[False].items()
    }
    for name, item in found[True].items():
        # Activations that bfloat16 rounds move scales, and what is divided by them, a little.
        largest = item.float().abs().max()
        assert float((item.float() - found[False][name].float()).abs().max()) <= 0.1 * float(largest), name


def test_sizes_are_compared_on_the_same_answers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    heard: list[tuple[str, float]] = []
    spec = QuantSpec(qformat="int8_sq", calib_max_seq_length=16)
    sizes = compare_sizes(
        tiny_checkpoint,
        spec,
        (1, 2, 4),
        calibration=CALIBRATION,
        held_out=HELD_OUT,
        on_progress=lambda phase, fraction: heard.append((phase, fraction)),
    )
    assert [(size.records, size.tokens) for size in sizes] == [(1, 16), (2, 32), (4, 64)]
    assert [size.against_largest is None for size in sizes] == [False, False, True]
    assert len({size.loss.base for size in sizes}) == 1 and list(tmp_path.iterdir()) == []
    # The last size is what a quantisation with as many records is.
    whole = quantize(tiny_checkpoint, spec, tmp_path, calibration=CALIBRATION, held_out=HELD_OUT)
    assert sizes[-1].loss == whole.loss
    first, largest = sizes[0], sizes[-1]
    assert first.against_largest is not None
    assert first.against_largest.base == largest.loss.quantised
    assert first.against_largest.change == pytest.approx(first.loss.quantised - largest.loss.quantised)
    fractions = [fraction for _, fraction in heard]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1)
    assert {phase for phase, _ in heard} >= {"16 bits", "2 records", "2 records, scored"}


@pytest.mark.parametrize(
    ("settings", "held_out", "words"),
    [
        ({"qformat": "int8"}, HELD_OUT, "int8 learns nothing from records"),
        ({"qformat": "mxfp8"}, HELD_OUT, "mxfp8 learns nothing from records"),
        ({"qformat": "nvfp4"}, HELD_OUT, r"no arithmetic for this format.*device=cuda"),
        ({"qformat": "fp8"}, HELD_OUT[:1], r"two held-out records.*score_records=32"),
    ],
)
def test_sizes_that_cannot_be_compared(
    tiny_checkpoint: Path, settings: dict[str, Any], held_out: tuple[Record, ...], words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        compare_sizes(tiny_checkpoint, QuantSpec(**settings), (1,), calibration=CALIBRATION, held_out=held_out)


def test_excluded_modules_keep_16_bits(tiny_checkpoint: Path, tmp_path: Path) -> None:
    made(tiny_checkpoint, tmp_path, exclude_modules=("*layers.0.*",))
    found = weights(tmp_path)
    assert found["model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16
    assert found["model.layers.1.mlp.up_proj.weight"].dtype == torch.float8_e4m3fn


def test_modelopts_own_recipes_are_taken_as_they_are(tiny_checkpoint: Path, tmp_path: Path) -> None:
    report = made(tiny_checkpoint, tmp_path / "named", recipe="general/ptq/fp8_default-kv_fp8")
    assert (report.quant_algo, report.kv_cache_quant_algo) == ("FP8", "FP8")
    for text in ("metadata: {recipe_type: ptq}\nquantize: 3\n", "nothing"):
        path = tmp_path / "own.yaml"
        path.write_text(text)
        with pytest.raises(EngineError, match=r"does not take this recipe.*own\.yaml"):
            made(tiny_checkpoint, tmp_path / "refused", recipe=path)


def test_layers_are_ranked_by_what_they_give_back(tiny_checkpoint: Path, tmp_path: Path) -> None:
    report = made(tiny_checkpoint, tmp_path, sensitivity=True)
    layers = json.loads((tiny_checkpoint / "config.json").read_text())["num_hidden_layers"]
    assert sorted(item.layer for item in report.layers) == list(range(layers))
    gains = [item.gain for item in report.layers]
    assert gains == sorted(gains, reverse=True)
    with pytest.raises(ValueError, match="sensitivity needs score_records"):
        QuantSpec(sensitivity=True, score_records=0)


def test_bad_input_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"int4_awq needs input sizes in blocks of 128.*hidden_size="):
        made(tiny_checkpoint, tmp_path, qformat="int4_awq")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        made(tmp_path / "nowhere", tmp_path)
    with pytest.raises(DataError, match="no answer to compare"):
        Answers.of((1, 2), (-100, -100))


def test_a_comparison_is_by_record() -> None:
    """Against the paired t interval of scipy."""
    from scipy.stats import ttest_1samp

    class Fixed(torch.nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.generator, self.weight = torch.Generator().manual_seed(seed), torch.nn.Parameter(torch.zeros(1))

        def forward(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor, **_: object) -> Any:
            logits = torch.randn(1, len(logits_to_keep), 50, generator=self.generator)
            return type("Output", (), {"logits": logits})

    answers = [Answers(tuple(range(8)), (3, 4, 5), (1, 2, 3 + row)) for row in range(6)]
    one, other = (losses(Fixed(seed), answers, lambda fraction: None) for seed in (1, 2))
    change = compare(one, other)
    differences = [(after.total - before.total) / 3 for before, after in zip(one, other, strict=True)]
    interval = ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (change.low, change.high) == pytest.approx((interval.low, interval.high))
    assert change.quantised - change.base == pytest.approx(sum(differences) / 6)
    assert compare(one, one).agreement == 1.0
