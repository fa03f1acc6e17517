"""Quantises a checkpoint with ModelOpt, to a unified Hugging Face checkpoint for TensorRT-LLM's PyTorch flow.

python -m recipes.quantize quantize.qformat=fp8 quantize.kv_cache_qformat=fp8
python -m recipes.quantize -m quantize.qformat=fp8,int8_sq,nvfp4
python -m recipes.quantize quantize.recipe=general/ptq/fp8_default-kv_fp8 checkpoint=/models/Qwen3-0.6B

What this machine cannot compute in (NVFP4 and MXFP8 on a CPU) is exported as *not scored*.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from recipes import app
from recipes.sources import find_source
from throughline.artifacts import Artifact, code_version
from throughline.contracts.errors import DataError
from throughline.contracts.quantization import QuantReport, QuantSpec
from throughline.contracts.report import Column, Table
from throughline.quantization.record import Record

CALIBRATION_FIX = "make the dataset of this model with `python -m recipes.data`, or name it (dataset=…)"


class Config(app.RecipeConfig):
    """Settings of `recipes.quantize`."""

    model: app.ModelSpec
    quantize: QuantSpec = QuantSpec()
    checkpoint: str = "latest"
    dataset: str = "latest"
    device: Literal["cpu", "cuda"] = "cpu"
    name: str = ""


def make(config: Config) -> Artifact:
    """Makes the quantised checkpoint, or finds it."""
    store = config.store()
    spec = config.quantize
    found = find_source(
        config,
        store,
        {"quantize": spec.model_dump(mode="json"), "device": config.device},
        suffix=spec.recipe.stem if spec.recipe else spec.qformat,
        fix=CALIBRATION_FIX,
    )
    stage = store.stage(
        "quantized-checkpoint",
        found.name,
        inputs=found.inputs,
        config=found.stage_config,
        code_version=code_version(
            "throughline.quantization", "throughline.contracts.quantization", extras=("quantize",)
        ),
        seed=config.seed,
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline.data import calibration_records
        from throughline.quantization import quantize
        from throughline.reporting.progress import Progress

        dataset = found.inputs["dataset"].path
        with Progress(f"quantise {found.name}", total=100, unit="%") as progress:
            report = quantize(
                found.folder,
                spec,
                run.directory,
                calibration=calibration_records(dataset, spec.calib_size, config.seed),
                held_out=held_out(dataset, spec.score_records),
                device=config.device,
                on_progress=lambda phase, fraction: progress.update(int(100 * fraction), phase=phase),
            )
        (run.directory / "quant_report.json").write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return run.commit(metrics=report.model_dump(mode="json"))


def held_out(dataset: Path, count: int) -> list[Record]:
    """Returns the first validation records; their split shares no group with the training records.

    Raises:
        DataError: If the dataset has no validation split.
    """
    import pyarrow.parquet as pq

    if not count:
        return []
    path = dataset / "validation.parquet"
    if not path.is_file():
        raise DataError(
            "dataset has no validation split",
            where=str(dataset),
            seen=f"no {path.name}",
            fix="run `python -m recipes.data`, or set quantize.score_records=0",
        )
    rows = pq.read_table(path, columns=["input_ids", "labels"]).to_pylist()[:count]  # type: ignore[no-untyped-call]
    return [Record(tuple(row["input_ids"]), tuple(row["labels"])) for row in rows]


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    from throughline.reporting.terminal import print_table

    store = config.store()
    known = {item.digest for item in store.all("quantized-checkpoint")}
    artifact = make(config)
    report = QuantReport.model_validate_json((artifact.path / "quant_report.json").read_text(encoding="utf-8"))
    for table in tables(artifact.manifest.name, report):
        print_table(table)
    if report.status != "scored":
        app.echo("not scored: this machine cannot compute in the format; score it on a GPU before anything is served")
    app.made(
        artifact,
        again=artifact.digest in known,
        next_command=f"python -m recipes.lint path={artifact.path}",
    )


def tables(name: str, report: QuantReport) -> list[Table]:
    """Returns what was made, and the layers that lose most where they were measured."""
    from throughline.reporting import format as fmt

    rows: list[list[object]] = [
        ["status", report.status],
        ["quant_algo", report.quant_algo],
        ["KV cache", report.kv_cache_quant_algo or "16 bits"],
        ["weights", fmt.bytes_(report.weight_bytes)],
        ["calibrated on", f"{report.calibration_records} records, {report.calibration_tokens:,} tokens"],
    ]
    loss = report.loss
    if loss is not None:
        change = loss.quantised - loss.base
        rows += [
            ["loss of answers", f"{loss.base:.4f} in 16 bits, {loss.quantised:.4f} quantised, {loss.tokens:,} tokens"],
            ["change", f"{change:+.4f} nats a token, by record {loss.low:+.4f} to {loss.high:+.4f} (95 %)"],
            ["likeliest token the same", f"{100 * loss.agreement:.2f} %"],
        ]
    found = [Table(f"Quantised checkpoint {name}", [Column("", align="left"), Column("", align="left")], rows)]
    if report.layers:
        worst: list[list[object]] = [[f"model.layers.{item.layer}", f"{item.gain:+.5f}"] for item in report.layers[:10]]
        columns = [Column("layer", align="left"), Column("loss given back", "nats a token")]
        patterns = ",".join(f"'*layers.{item.layer}.*'" for item in report.layers[:3])
        note = f"in 16 bits, one at a time; to keep the first three: quantize.exclude_modules=[{patterns}]"
        found.append(Table("Layers that lose most", columns, worst, note=note))
    return found


if __name__ == "__main__":
    main()
