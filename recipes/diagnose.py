"""Names the bottleneck of a benchmark or of a running service, with evidence, and the override to try next.

python -m recipes.diagnose benchmark=3f2a91
python -m recipes.diagnose benchmark=after.json baseline=before.json slo=interactive slo.ttft_seconds=1
python -m recipes.diagnose url=http://127.0.0.1:8080 metrics_url=http://127.0.0.1:8002 seconds=60
python -m recipes.diagnose fault=tiny_batch target=promoted    # causes a fault of the library, and pulls its lever

A run within its limits and without waste gets no finding. docs/tuning.md says how to read the report.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from recipes import app, diagnosis_report, faults, references
from recipes.opening import LOOPBACK
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.diagnosis import Diagnosis
from throughline.contracts.engine import EngineInfo
from throughline.contracts.errors import ArtifactError, ConfigError, DataError
from throughline.contracts.measurement import Measurement
from throughline.contracts.slo import SloSpec
from throughline.contracts.text import shorten
from throughline.diagnosis import diagnose

# Files of a benchmark's folder that may hold measurements.
_FILES = ("measurements.json", "measurement.json", "benchmark.json")


class Config(app.RecipeConfig):
    """Settings of `recipes.diagnose`."""

    benchmark: str = "latest"
    baseline: str | None = None
    url: str | None = None
    metrics_url: str | None = None
    seconds: float = Field(default=30, gt=0)
    target: str | None = None
    slo: SloSpec | None = None
    fault: faults.FaultSpec | None = None
    format: Literal["table", "json"] = "table"


def measurements(store: ArtifactStore, reference: str) -> list[Measurement]:
    """Returns the measurements of a benchmark.

    Args:
        store: Where benchmarks lie.
        reference: A JSON file, or an artifact's digest or folder, or `latest`.

    Raises:
        ArtifactError: If there is no such benchmark.
        DataError: If it holds no measurement.
    """
    path = Path(reference)
    if not path.is_file():
        path = _file(store, reference)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = found.get("measurements", [found]) if isinstance(found, dict) else found
        return [Measurement.model_validate(row) for row in rows]
    except (ValueError, ValidationError) as error:
        raise DataError(
            "file holds no measurement",
            where=str(path),
            seen=shorten(str(error).splitlines()[0]),
            fix="give a benchmark of a workload, or a JSON file of `Measurement`",
        ) from None


def _file(store: ArtifactStore, reference: str) -> Path:
    if reference == "latest":
        known = store.all("benchmark")
        if not known:
            raise ArtifactError(
                "there is no benchmark yet", where="benchmark", seen=reference, fix="run `python -m recipes.bench`"
            )
        folder = known[-1].path
    elif Path(reference).is_dir():
        folder = Path(reference)
    else:
        folder = store.get(reference, "benchmark").path
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    raise DataError("folder holds no measurement", where=str(folder), seen=", ".join(_FILES), fix="name another one")


def watched(config: Config, url: str) -> tuple[Measurement, tuple[str, ...]]:
    """Looks at a running gateway; returns what was measured, and what could not be seen."""
    from throughline.diagnosis.live import watch

    settings: dict[str, Any] = {}
    if config.target is not None:
        engine = references.engine(config.store(), config.target, config.profile)
        settings = {f"engine.{key}": value for key, value in EngineInfo.read(engine.path).spec.model_dump().items()}
    cores = len(os.sched_getaffinity(0)) if urlsplit(url).hostname in LOOPBACK else 0
    found = watch(url, config.metrics_url or "", seconds=config.seconds, slo=config.slo, settings=settings, cores=cores)
    return found.run, found.blind


def judge(config: Config) -> list[tuple[Measurement, Diagnosis, tuple[str, ...]]]:
    """Returns each run with its diagnosis and with what could not be seen."""
    if config.url is not None:
        run, blind = watched(config, config.url)
        return [(run, diagnose(run, baseline=_baseline(config, run)), blind)]
    runs = [
        run if config.slo is None else run.model_copy(update={"slo": config.slo})
        for run in measurements(config.store(), config.benchmark)
    ]
    return [(run, diagnose(run, baseline=_baseline(config, run)), ()) for run in runs]


def _baseline(config: Config, run: Measurement) -> Measurement | None:
    """Returns the baseline's run of the same target."""
    if config.baseline is None:
        return None
    known = measurements(config.store(), config.baseline)
    fitting = [item for item in known if item.target == run.target]
    if not fitting:
        raise ConfigError(
            "baseline has no run of this target",
            where="baseline",
            seen=", ".join(sorted({item.target for item in known})),
            fix=f"name one that measured target={run.target}",
        )
    return fitting[0]


@app.recipe(Config, capture=False)
def main(config: Config) -> None:
    """Runs the recipe."""
    if config.fault is not None:
        _cause(config, config.fault)
        return
    if config.url is not None and config.format == "table":
        app.echo(f"looking  at {config.url} for {config.seconds:g} s")
    found = judge(config)
    if config.format == "json":
        sys.stdout.write(json.dumps([_plain(*each) for each in found], indent=1) + "\n")
        return
    _show(config, found)


def _cause(config: Config, fault: faults.FaultSpec) -> None:
    """Causes a fault, and says what the doctor and its lever made of it."""
    engine = references.engine(config.store(), config.target or "promoted", config.profile)
    engines: dict[str, Artifact] = {EngineInfo.read(engine.path).precision: engine}
    app.echo(f"causing  {fault.names}: two runs of {fault.seconds:g} s")
    found = faults.cause(fault, store=config.store(), engines=engines, seed=config.seed)
    _show(config, [(found.run, found.diagnosis, ())])
    if found.finding is None or found.gain is None:
        app.echo(f"named    not {fault.names}")
        return
    lever = " ".join(faults.typed(found.finding).overrides)
    app.echo(f"lever    {lever}: {fault.improves} {fault.at} {found.gain:.2f} times better")


def _plain(run: Measurement, diagnosis: Diagnosis, blind: Sequence[str]) -> dict[str, Any]:
    return {
        "target": run.target,
        "healthy": diagnosis.healthy,
        "diagnosis": diagnosis.model_dump(mode="json"),
        "not_seen": list(blind),
    }


def _show(config: Config, found: Sequence[tuple[Measurement, Diagnosis, tuple[str, ...]]]) -> None:
    from throughline.reporting.html import write_report
    from throughline.reporting.terminal import print_table

    for run, diagnosis, blind in found:
        app.echo(f"verdict  {run.target}: {diagnosis_report.verdict(diagnosis)}")
        if diagnosis.findings:
            print_table(diagnosis_report.findings_table(diagnosis))
        for line in blind:
            app.echo(f"unseen   {line}")
    report = diagnosis_report.page(found, app.command("python -m recipes.diagnose"))
    app.echo(f"page     {write_report(report, config.store().home / 'diagnoses' / _name(config))[0]}")
    lever = next((lever for _, each, _ in found for finding in each.findings for lever in finding.levers), None)
    app.echo(f"next     {' '.join(lever.overrides) or lever.why}" if lever else "next     nothing to change")


def _name(config: Config) -> str:
    source = urlsplit(config.url).netloc if config.url is not None else Path(config.benchmark).stem
    return source.replace(":", "-") or "run"


if __name__ == "__main__":
    main()
