"""A diagnosis as people read it: a verdict, a table in the terminal, and a page with all the evidence."""

from __future__ import annotations

import time
from collections.abc import Sequence

from throughline.contracts.diagnosis import Diagnosis, Evidence, Finding
from throughline.contracts.measurement import PHASES, Measurement
from throughline.contracts.report import Column, Judged, Plot, Report, Section, Series, Table, VerdictKind
from throughline.diagnosis import Seen

Judgement = tuple[Measurement, Diagnosis, tuple[str, ...]]


def verdict(diagnosis: Diagnosis) -> str:
    """Returns the line to take away."""
    if diagnosis.healthy:
        return "healthy: " + ("every limit is kept, nothing is wasted" if diagnosis.judged else "nothing stands out")
    broken = ", ".join(f"{name} {times:.2g}×" for name, times in diagnosis.over.items())
    if not diagnosis.findings:
        lacks = sorted({reading for rule in diagnosis.undecided for reading in rule.lacks})
        why = f"; not measured: {', '.join(lacks)}" if lacks else ""
        return f"limits are broken ({broken}), and no rule has the evidence to say why{why}"
    first = diagnosis.findings[0]
    return f"{first.name}, about {first.severity * 100:.0f} % of the {first.cost}" + (
        f"; broken: {broken}" if broken else ""
    )


def kind(diagnosis: Diagnosis) -> VerdictKind:
    """Returns how the verdict is coloured."""
    if diagnosis.healthy:
        return "good"
    return "bad" if diagnosis.findings else "unclear"


def figure(value: float, unit: str) -> str:
    """Returns a figure with its unit."""
    from throughline.reporting import format as fmt

    if unit == "s":
        return fmt.seconds(value)
    if unit == "share":
        return fmt.percent(value)
    if unit == "Hz":
        return f"{fmt.number(value / 1e6, 0)} MHz"
    return f"{fmt.number(value)} {unit}"


def findings_table(diagnosis: Diagnosis) -> Table:
    """Returns a row for each finding: what it costs, its leading figure, and the first lever."""
    rows: list[list[object]] = []
    for finding in diagnosis.findings:
        lever = finding.levers[0]
        rows.append(
            [
                Judged(finding.name, "bad"),
                f"{finding.severity * 100:.0f} % of {finding.cost}",
                _leading(finding),
                " ".join(lever.overrides) or lever.why,
            ]
        )
    names = ("finding", "costs about", "evidence", "first lever")
    return Table("Findings", [Column(name, align="left") for name in names], rows)


def _leading(finding: Finding) -> str:
    first = finding.evidence[0]
    return f"{first.name} {figure(first.value, first.unit)}" + (
        f" (limit {figure(first.limit, first.unit)})" if first.limit is not None else ""
    )


def page(found: Sequence[Judgement], command: str) -> Report:
    """Returns the page of all runs."""
    sections = [
        section for item in found for section in _sections(*item, name=item[0].target if len(found) > 1 else "")
    ]
    _, worst, _ = min(
        found, key=lambda item: (item[1].healthy, -max((f.severity for f in item[1].findings), default=0))
    )
    return Report(
        title="Diagnosis: " + ", ".join(run.target for run, _, _ in found),
        verdict=verdict(worst),
        verdict_kind=kind(worst),
        summary=[f"{run.target}: {verdict(diagnosis)}" for run, diagnosis, _ in found],
        sections=sections,
        environment=_environment(found),
        command=command,
    )


def _environment(found: Sequence[Judgement]) -> dict[str, str]:
    run = found[0][0]
    named = {"engine": run.engine_digest, "cores": str(run.machine.cores or "not known")}
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(run.started_at))
    return {key: value for key, value in named.items() if value} | {"measured at (UTC)": started}


def _sections(run: Measurement, diagnosis: Diagnosis, blind: Sequence[str], *, name: str) -> list[Section]:
    lead = f"{name}: " if name else ""
    sections = [_finding(finding, lead) for finding in diagnosis.findings]
    sections.append(Section(f"{lead}Where a request's time goes", tables=[_run_table(run)], plots=_plots(run)))
    if blind or diagnosis.undecided:
        rows: list[list[object]] = [[rule.name, ", ".join(rule.lacks)] for rule in diagnosis.undecided]
        table = Table("Rules without readings", [Column("rule", align="left"), Column("lacks", align="left")], rows)
        sections.append(Section(f"{lead}What could not be seen", "\n\n".join(blind), [table] if rows else []))
    return sections


def _finding(finding: Finding, lead: str) -> Section:
    levers = "\n\n".join(
        f"{'Then' if index else 'First'}: " + " ".join([*(f"`{each}`" for each in lever.overrides), lever.why])
        for index, lever in enumerate(finding.levers)
    )
    text = (
        f"{finding.summary} It costs about {finding.severity * 100:.0f} % of the {finding.cost}: {finding.arithmetic}."
        f"\n\n{levers}\n\nIt would be wrong if {finding.contradicted_by}."
    )
    columns = [Column("figure", align="left"), Column("value"), Column("limit"), Column("because", align="left")]
    return Section(
        f"{lead}{finding.name}", text, [Table("Evidence", columns, [_row(each) for each in finding.evidence])]
    )


def _row(evidence: Evidence) -> list[object]:
    limit = figure(evidence.limit, evidence.unit) if evidence.limit is not None else None
    return [evidence.name, figure(evidence.value, evidence.unit), limit, evidence.source]


def _run_table(run: Measurement) -> Table:
    limits = run.slo.latencies() if run.slo is not None else {}
    rows: list[list[object]] = []
    for label, found in (("TTFT", run.ttft), ("ITL", run.itl), ("TPOT", run.tpot), ("e2e", run.e2e)):
        limit = limits.get(f"{label.lower()}_seconds")
        values = [found[at].value * 1e3 if at in found else None for at in ("mean", "p50", "p95", "p99")]
        rows.append([label, *values, limit * 1e3 if limit is not None else None])
    columns = [Column("", align="left"), *(Column(at, "ms") for at in ("mean", "p50", "p95", "p99", "limit"))]
    note = f"the limit is of p{run.slo.percentile}" if run.slo is not None else "no limits were given"
    return Table("Latencies", columns, rows, note=f"{run.requests} requests in {run.seconds:.0f} s; {note}")


def _plots(run: Measurement) -> list[Plot]:
    # As the rules see them, so that the picture and the finding's arithmetic are the same.
    phases = Seen(run).phases
    names = [name for name in PHASES if name in phases]
    if not names:
        return []
    values = [phases[name] * 1e3 for name in names]
    return [Plot("A mean request", "phase", "time (ms)", [Series("mean", names, values)], kind="bar")]
