"""Whether a tuning still holds: its preset measured again on this machine, under this workload."""

from __future__ import annotations

from recipes import app, references, tune_report
from recipes.tune_config import Config
from recipes.tune_probe import Engines, StackProbe
from throughline.contracts.errors import ConfigError, GateNoGo
from throughline.contracts.report import Column, Judged, Table, VerdictKind
from throughline.tuning import Probe
from throughline.tuning.drift import Drift, check


def make(config: Config, probe: Probe | None = None) -> Drift:
    """Measures the preset's settings again, as long as its evidence was measured, and compares.

    The limits are those of the evidence; the workload is the config's, so that another one is found out.

    Raises:
        ConfigError: If the preset has no evidence.
    """
    evidence = config.tuned.evidence
    if evidence is None:
        raise ConfigError(
            "this preset has no evidence to check against",
            where=f"tuned={config.tuned.name}",
            fix="name a preset that `python -m recipes.tune` has written",
        )
    if probe is None:
        engine = references.engine(config.store(), config.target, config.profile)
        asks = config.workload.source == "dataset"
        dataset = references.dataset(config.store(), config.dataset, engine.path, engine) if asks else None
        engines = Engines(engine, config)
        probe = StackProbe(config.layer, config.workload, evidence.slo, config.store(), engines, dataset)
    found = [
        probe(config.tuned.settings, seconds=evidence.probe_seconds, seed=config.seed + 30_000 + number)
        for number in range(config.noise_probes)
    ]
    return check(evidence, found, machine=tune_report.machine(), workload=config.workload.model_dump(mode="json"))


def run(config: Config) -> None:
    """Measures, prints what was found, and exits with 3 if the tuning does not hold.

    Raises:
        GateNoGo: Then.
    """
    from throughline.reporting.terminal import print_table

    drift = make(config)
    kind: VerdictKind = "good" if drift.holds else "bad"
    rows: list[list[object]] = [
        ["holds", Judged(drift.holds, kind)],
        ["now over then", f"{drift.change:.2f}"],
        ["explained by noise", f"± {100 * drift.band:.0f} %"],
        ["limits exceeded", ", ".join(f"{name} {value:.2f}×" for name, value in drift.broken.items()) or "none"],
        ["not as it was", ", ".join(drift.elsewhere) or "nothing"],
    ]
    print_table(Table(f"Tuning {config.tuned.name}", [Column("", align="left"), Column("", align="left")], rows))
    if not drift.holds:
        raise GateNoGo(
            "the tuning does not hold any more",
            where=f"tuned={config.tuned.name}",
            seen=drift.reason,
            fix=f"search again: python -m recipes.tune name={config.tuned.name}",
        )
    app.echo(f"holds    {drift.reason}")
