"""Quantises a checkpoint with ModelOpt, to a unified Hugging Face checkpoint for TensorRT-LLM's PyTorch flow.

python -m recipes.quantize quantize.qformat=fp8 quantize.kv_cache_qformat=fp8
python -m recipes.quantize -m quantize.qformat=fp8,int8_sq,nvfp4
python -m recipes.quantize device=cuda questions=60
python -m recipes.quantize quantize.qformat=int8_sq calib_sizes=[16,64,256,1024]
python -m recipes.quantize quantize.recipe=general/ptq/fp8_default-kv_fp8 checkpoint=/models/Qwen3-0.6B

`questions` puts held-out questions to the model in 16 bits and quantised, and compares the answers one by one. What
this machine cannot compute in (NVFP4 and MXFP8 on a CPU) is exported as *not scored*, which no gate passes. With
`calib_sizes` nothing is exported: the loss is compared after calibrating on more and more records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from recipes import app, calibrate, calibration_sizes
from recipes.evaluate import questions_of
from recipes.results import PAIRED, label
from recipes.sources import Source, find_source, held_out
from throughline.artifacts import Artifact, ArtifactStore, code_version
from throughline.checkpoints import read_json
from throughline.contracts.evaluation import GATED_SET, OTHER, Comparison, Evaluation, SuiteSpec
from throughline.contracts.quantization import NOT_SCORED, REPORT_FILE, QuantReport, QuantSpec
from throughline.contracts.report import Column, Table
from throughline.contracts.workload import Workload
from throughline.engines.tensorrt.check import served_precision

SHORT_OF_GPU = "stop what else runs on it, set quantize.score_records=0, or quantise with device=cpu"
CALIBRATION_FIX = "make the dataset of this model with `python -m recipes.data`, or name it (dataset=…)"


class Config(app.RecipeConfig):
    """Settings of `recipes.quantize`."""

    model: app.ModelSpec
    quantize: QuantSpec = QuantSpec()
    workload: Workload | None = None
    calib_sizes: tuple[Annotated[int, Field(ge=1)], ...] = ()
    suite: SuiteSpec
    questions: int = Field(default=0, ge=0)
    checkpoint: str = "latest"
    dataset: str = "latest"
    device: Literal["cpu", "cuda"] = "cpu"
    name: str = ""


def make(config: Config) -> Artifact:
    """Makes the quantised checkpoint, or finds it."""
    store = config.store()
    spec = config.quantize
    settings: dict[str, object] = {"quantize": spec.model_dump(mode="json"), "device": config.device}
    if config.workload is not None:
        settings["workload"] = config.workload.model_dump(mode="json")
    asking: tuple[str, ...] = ()
    if config.questions:
        settings["questions"] = [config.questions, config.suite.model_dump(mode="json")]
        asking = (
            "throughline.evaluation",
            "throughline.contracts.evaluation",
            "throughline.engines.transformers_runtime",
            "throughline.vocabulary",
        )
    found = source(config, store, settings, spec.calib_size)
    stage = store.stage(
        "quantized-checkpoint",
        found.name,
        inputs=found.inputs,
        config=found.stage_config,
        code_version=code_version(
            "throughline.quantization",
            "throughline.contracts.quantization",
            "throughline.data.calibration",
            "throughline.data.calibration_check",
            *asking,
            extras=("quantize",),
        ),
        seed=config.seed,
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline.data import Calibration
        from throughline.quantization import quantize
        from throughline.reporting.progress import Progress

        dataset, calibration = found.inputs["dataset"], found.inputs["calibration"]
        calibrated_on = Calibration.read(calibration.path).token_ids
        scored_on = held_out(dataset.path, spec.score_records)
        planned = plan(config, found, [*calibrated_on, *(record.input_ids for record in scored_on)], run.directory)
        tasks = Tasks(config, dataset.path, found.folder) if config.questions else None
        with Progress(f"quantise {found.name}", total=100, unit="%") as progress:
            report = quantize(
                found.folder,
                spec,
                run.directory,
                calibration=calibrated_on,
                held_out=scored_on,
                device=config.device,
                ask=tasks,
                on_progress=lambda phase, fraction: progress.update(int(100 * fraction), phase=phase),
            )
        wanted = calibrate.prompts(config.workload, dataset)
        against = calibrate.warnings(calibration, wanted, spec.calib_max_seq_length)
        compared = tasks.compared() if tasks else ()
        report = report.model_copy(update={"warnings": (*report.warnings, *against), "tasks": compared})
        (run.directory / REPORT_FILE).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return run.commit(metrics=report.model_dump(mode="json") | {"planned": planned})


class Tasks:
    """Held-out questions, put to the model in 16 bits and quantised.

    Args:
        config: How many of each stratum, and how they are scored.
        dataset: Folder of the dataset.
        checkpoint: Folder of the checkpoint.

    Raises:
        DataError: If the dataset has no questions.
    """

    def __init__(self, config: Config, dataset: Path, checkpoint: Path) -> None:
        limits = {GATED_SET: {OTHER: config.questions}}
        self._suite = config.suite.model_copy(update={"sets": (GATED_SET,), "limits": limits, "constrained": False})
        ((_, self._questions),) = questions_of(dataset, self._suite)
        self._checkpoint = checkpoint
        self._found: dict[str, Evaluation] = {}

    def __call__(self, which: str, model: Any, tell: Callable[[float], None]) -> None:
        """Asks one of the two."""
        from throughline.engines.transformers_runtime import TransformersRuntime
        from throughline.evaluation.generate import generate
        from throughline.evaluation.suite import score

        runtime, count = TransformersRuntime(model, self._checkpoint), len(self._questions)
        answers = generate(runtime, self._questions, self._suite, lambda done: tell(done / count))
        self._found[which] = score(which, self._questions, answers, self._suite)

    def compared(self) -> tuple[Comparison, ...]:
        """Returns the shares that both have; none where the format cannot be computed."""
        from throughline.evaluation.compare import compare

        if len(self._found) < 2:
            return ()
        base, after = self._found.values()
        return tuple(compare(base, after, metric) for metric in PAIRED if metric in base.metrics)


def plan(config: Config, found: Source, records: Sequence[Sequence[int]], out_dir: Path) -> dict[str, int]:
    """Checks memory and disk; returns what is expected, empty for a family that is not planned for.

    Raises:
        EngineError: If memory, of the host or the GPU, or disk is short.
    """
    from throughline import resources
    from throughline.contracts.checkpoint import FAMILIES
    from throughline.planning.quantization import quantisation_memory
    from throughline.planning.shape import read_shape
    from throughline.quantization import computes_in_16_bits

    if read_json(found.folder / "config.json").get("model_type") not in FAMILIES:
        return {}
    need = quantisation_memory(
        read_shape(found.folder),
        config.quantize,
        device=config.device,
        tokens=max(map(len, records), default=0),
        computes_in_16_bits=computes_in_16_bits(config.device),
    )
    host = resources.Resources(round(need.host), round(need.disk))
    smaller = "close other programs, or quantise on a larger machine"
    resources.check(host, resources.available(out_dir), out_dir, what="quantise the checkpoint", fix=smaller)
    peak = need.host
    if config.device == "cuda":
        import torch

        peak = need.device
        gpu = resources.Resources(round(need.device), 0)
        free = resources.Resources(torch.cuda.mem_get_info()[0], 0)
        resources.check(gpu, free, out_dir, what="quantise the checkpoint on this GPU", fix=SHORT_OF_GPU)
    planned = {"peak_memory_bytes": round(peak)}
    return planned if need.weights is None else planned | {"weight_bytes": round(need.weights)}


def source(config: Config, store: ArtifactStore, settings: dict[str, object], calib_size: int) -> Source:
    """Finds the checkpoint and the calibration records."""
    spec = config.quantize
    return find_source(
        config,
        store,
        settings,
        suffix=spec.recipe.stem if spec.recipe else spec.qformat,
        fix=CALIBRATION_FIX,
        calib_size=calib_size,
    )


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    if config.calib_sizes:
        _sizes(config)
    else:
        _quantise(config)


def _quantise(config: Config) -> None:
    from throughline.reporting.terminal import print_table

    store = config.store()
    known = {item.digest for item in store.all("quantized-checkpoint")}
    artifact = make(config)
    report = QuantReport.model_validate_json((artifact.path / REPORT_FILE).read_text(encoding="utf-8"))
    for table in tables(artifact.manifest.name, report):
        print_table(table)
    if report.status == NOT_SCORED:
        why = "this machine cannot compute in the format" if config.quantize.score_records else "score_records=0"
        app.echo(f"{NOT_SCORED}: {why}; no gate passes it and no job takes it")
    calibrate.tell(report.warnings)
    precision = served_precision(str(report.quant_algo)) if report.status != NOT_SCORED else None
    follow_up = f"python -m recipes.lint path={artifact.path}"
    if precision is not None:
        follow_up = f"python -m recipes.build engine=pytorch quant={precision} checkpoint={artifact.digest[:12]}"
    app.made(artifact, again=artifact.digest in known, next_command=follow_up)


def _sizes(config: Config) -> None:
    from throughline.reporting.terminal import print_table

    store, spec = config.store(), config.quantize
    known = {item.digest for item in store.all("benchmark")}
    found = source(config, store, {}, max(config.calib_sizes))
    artifact = calibration_sizes.make(store, found, spec, config.calib_sizes, config.device, config.seed)
    result = calibration_sizes.Sizes.read(artifact)
    print_table(calibration_sizes.table(result))
    for line in calibration_sizes.remarks(result):
        app.echo(line)
    largest = store.get(artifact.manifest.inputs["calibration"], "calibration")
    calibrate.tell(
        calibrate.warnings(
            largest, calibrate.prompts(config.workload, found.inputs["dataset"]), spec.calib_max_seq_length
        )
    )
    what = f"quantize.recipe={spec.recipe}" if spec.recipe else f"quantize.qformat={spec.qformat}"
    command = f"python -m recipes.quantize {what} checkpoint={config.checkpoint}"
    sizes = ",".join(map(str, config.calib_sizes))
    page = calibration_sizes.write_page(
        store, artifact, result, f"{command} quantize.score_records={spec.score_records} calib_sizes=[{sizes}]"
    )
    app.echo(f"page     {page}")
    app.made(
        artifact,
        again=artifact.digest in known,
        next_command=f"{command} quantize.calib_size={result.enough().records}",
    )


def tables(name: str, report: QuantReport) -> list[Table]:
    """Returns what was made, and the layers that lose most where they were measured."""
    from throughline.reporting import format as fmt

    rows: list[list[object]] = [
        ["status", report.status],
        ["quant_algo", report.quant_algo],
        ["KV cache", report.kv_cache_quant_algo or "16 bits"],
        ["weights", fmt.bytes_(report.weight_bytes)],
        ["peak memory", "not known" if report.peak_memory_bytes is None else fmt.bytes_(report.peak_memory_bytes)],
        ["calibrated on", f"{report.calibration_records} records, {report.calibration_tokens:,} tokens"],
    ]
    loss = report.loss
    if loss is not None:
        rows += [
            ["loss of answers", f"{loss.base:.4f} in 16 bits, {loss.quantised:.4f} quantised, {loss.tokens:,} tokens"],
            ["change", f"{loss.change:+.4f} nats a token, by record {loss.low:+.4f} to {loss.high:+.4f} (95 %)"],
            ["likeliest token the same", f"{100 * loss.agreement:.2f} %"],
        ]
    found = [Table(f"Quantised checkpoint {name}", [Column("", align="left"), Column("", align="left")], rows)]
    if report.tasks:
        asked: list[list[object]] = [
            [
                label(item.metric),
                fmt.percent(item.reference),
                fmt.percent(item.candidate),
                fmt.points(item.difference, item.low, item.high),
                item.n,
            ]
            for item in report.tasks
        ]
        names = [Column(name) for name in ("16 bits", "quantised", "difference", "questions")]
        note = "held-out questions, answered greedily; difference with Tango's 95 % interval for pairs"
        found.append(Table("Tasks", [Column("metric", align="left"), *names], asked, note=note))
    if report.layers:
        worst: list[list[object]] = [[f"model.layers.{item.layer}", f"{item.gain:+.5f}"] for item in report.layers[:10]]
        columns = [Column("layer", align="left"), Column("loss given back", "nats a token")]
        patterns = ",".join(f"'*layers.{item.layer}.*'" for item in report.layers[:3])
        note = f"in 16 bits, one at a time; to keep the first three: quantize.exclude_modules=[{patterns}]"
        found.append(Table("Layers that lose most", columns, worst, note=note))
    return found


if __name__ == "__main__":
    main()
