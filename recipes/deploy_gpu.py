"""A GPU engine's deployment: both of TensorRT-LLM's layouts, with what starts them; the render part of `deploy`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.artifacts import Artifact, ArtifactStore, code_version
from throughline.checkpoints import read_json
from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import ArtifactError, DeployError, EngineError
from throughline.contracts.report import Column, Table
from throughline.contracts.serving import Layout, ServeSpec
from throughline.engines.cpu.model_config import eos_token_ids
from throughline.engines.tensorrt import BuildJob
from throughline.engines.tensorrt.check import check_spec
from throughline.engines.tensorrt.commands import model_yaml
from throughline.linting import lint
from throughline.triton.gpu import ServedEngine, Tokenizer, launch, write_inflight_batcher, write_llmapi
from throughline.triton.repository import check_name

LAYOUTS: tuple[Layout, ...] = ("inflight_batcher_llm", "llmapi")
# Settings of TensorRT engines that the PyTorch flow decides by itself.
_OF_ENGINES: dict[str, Any] = {"backend": "pytorch", "gemm_plugin": "auto", "multiple_profiles": False}


@dataclass(frozen=True)
class GpuTarget:
    """What is to be served.

    Attributes:
        engine: As the repository has to know it.
        inputs: Artifacts that the deployment depends on.
        digest: Of a foreign engine folder's `config.json`; empty for a build job.
        spec: Settings of the build; None for an engine folder.
        tokenizer: Of the checkpoint, where it is on this machine.
    """

    engine: ServedEngine
    inputs: dict[str, Artifact]
    digest: str = ""
    spec: EngineSpec | None = None
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True)
class Rendered:
    """The deployment, and why a layout is not in it."""

    artifact: Artifact
    refused: dict[Layout, str]


def find_target(store: ArtifactStore, reference: str) -> GpuTarget | None:
    """Returns the build job or the TensorRT-LLM engine folder that a config value names; None if it is neither."""
    folder = Path(reference)
    if (folder / "config.json").is_file() and list(folder.glob("rank*.engine")):
        digest = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
        return GpuTarget(ServedEngine.read(folder), {}, digest)
    try:
        artifact = store.get(reference, "build-job")
    except ArtifactError:
        return None
    job = BuildJob.read(artifact.path)
    return GpuTarget(
        ServedEngine.of_spec(job.name, job.spec),
        {"build_job": artifact},
        spec=job.spec,
        tokenizer=_tokenizer(store, artifact),
    )


def deployed_target(store: ArtifactStore, reference: str) -> GpuTarget | None:
    """Returns what `find_target` does, for a deployment that was rendered of a build job too."""
    try:
        deployment = store.get(reference, "deployment")
    except ArtifactError:
        return find_target(store, reference)
    job = deployment.manifest.inputs.get("build_job")
    return None if job is None else find_target(store, job)


def _tokenizer(store: ArtifactStore, job: Artifact) -> Tokenizer | None:
    """The checkpoint's tokenizer, if it was built from an artifact that is here."""
    digest = job.manifest.inputs.get("checkpoint")
    found = [item for item in store.all() if item.digest == digest]
    if not found:
        return None
    folder = found[0].path
    generation = folder / "generation_config.json"
    values = read_json(generation) if generation.is_file() else {}
    return Tokenizer(folder, tuple(eos_token_ids(read_json(folder / "config.json"), values)))


def make(store: ArtifactStore, target: GpuTarget, name: str, serve: ServeSpec) -> Rendered:
    """Renders every layout that the target can be served in, or finds them.

    Raises:
        DeployError: If none of them can be rendered; with the reason of each. If the name cannot be served.
    """
    check_name(name)
    options, refused = _options(target, serve)
    stage = store.stage(
        "deployment",
        name,
        inputs=target.inputs,
        config={
            "serve": serve.model_dump(mode="json"),
            "name": name,
            "engine": target.digest,
            "refused": dict(refused),
        },
        code_version=code_version("throughline.triton", "throughline.engines.tensorrt", extras=("triton",)),
    )
    with stage as run:
        if run.cached:
            return Rendered(run.cached, refused)
        for layout in LAYOUTS:
            if layout in refused:
                continue
            folder = run.directory / layout
            folder.mkdir()
            if layout == "llmapi":
                write_llmapi(folder, target.engine, serve, options=options)
            else:
                write_inflight_batcher(folder, target.engine, serve, tokenizer=target.tokenizer)
            launch.write(folder, name, layout, target.engine, serve)
            _check(folder)
        layouts = [layout for layout in LAYOUTS if layout not in refused]
        return Rendered(run.commit(metrics={"status": "rendered, not run on a GPU", "layouts": layouts}), refused)


def _options(target: GpuTarget, serve: ServeSpec) -> tuple[dict[str, Any], dict[Layout, str]]:
    """Arguments of `LLM()`, and the layouts that the target cannot be served in with their reasons."""
    refused: dict[Layout, str] = {}
    options: dict[str, Any] = {}
    spec = target.spec
    if spec is not None and spec.backend == "pytorch":
        refused["inflight_batcher_llm"] = "the PyTorch flow builds no engine"
    if spec is None:
        refused["llmapi"] = "an engine folder has no checkpoint: python -m recipes.migrate makes the llmapi layout"
    elif serve.gpu.batching_strategy == "V1":
        refused["llmapi"] = "LLM() batches in flight always, batching_strategy is V1"
    else:
        flow = spec if spec.backend == "pytorch" else spec.model_copy(update=_OF_ENGINES)
        try:
            check_spec(flow)
        except EngineError as error:
            refused["llmapi"] = str(error)
        else:
            options = model_yaml(flow, serve.gpu.checkpoint_dir)
    if len(refused) == len(LAYOUTS):
        raise DeployError(
            "the target can be served in no layout",
            where="target",
            seen="; ".join(f"{layout}: {reason}" for layout, reason in refused.items()),
            fix="change serve.gpu, or build for another flow",
        )
    return options, refused


def _check(folder: Path) -> None:
    """Runs our linter over a rendered repository.

    Raises:
        DeployError: If it finds something wrong.
    """
    found = lint(folder / "repository")
    if found:
        raise DeployError(
            "the linter finds the rendered repository wrong",
            where=str(found[0].path),
            seen="; ".join(f"{item.rule.id}: {item.key}: {item.seen}" for item in found),
            fix="; ".join(dict.fromkeys(item.cure for item in found)),
        )


def table(rendered: Rendered, serve: ServeSpec) -> Table:
    """Returns the layouts, where they are, and what starts them."""
    rows: list[list[object]] = []
    for layout in LAYOUTS:
        if layout in rendered.refused:
            rows.append([layout, "not rendered", rendered.refused[layout]])
            continue
        folder = rendered.artifact.path / layout
        models = ", ".join(sorted(path.parent.name for path in (folder / "repository").glob("*/config.pbtxt")))
        rows += [[layout, "models", models], ["", "copy to", f"{serve.gpu.deployment_dir} (from {folder})"]]
        rows.append(["", "start with", "start.sh in the container, the systemd unit, or compose.yaml"])
    columns = [Column("layout", align="left"), Column("", align="left"), Column("", align="left")]
    return Table("Rendered, not run on a GPU", columns, rows)
