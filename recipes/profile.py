"""Writes and runs the commands that capture a profile, and reads what they exported into findings.

python -m recipes.profile tool=py-spy pid=4711 run=true
python -m recipes.profile tool=nsys 'program="tritonserver --model-repository=/models"' delay_seconds=90
python -m recipes.profile 'read=[capture_cuda_gpu_kern_sum.csv,capture_nvtx_sum.csv]' seconds=20

Our ranges are in the NVTX domain `throughline` where the package `nvtx` is installed. ncu's commands have run on an
H100; those of nsys have not been run on a GPU by us.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from recipes import app
from recipes.diagnosis_report import findings_table
from throughline.contracts.diagnosis import Diagnosis, Finding
from throughline.contracts.errors import ConfigError, EngineError
from throughline.contracts.report import Column, Table
from throughline.diagnosis import capture, nsight, profile_rules, stacks

_MOST_ROWS = 12


class Config(app.RecipeConfig):
    """Settings of `recipes.profile`."""

    tool: capture.Tool = "py-spy"
    program: str = ""
    pid: int | None = Field(default=None, ge=1)
    seconds: float = Field(default=20, gt=0)
    delay_seconds: float = Field(default=0, ge=0)
    kernel: str = ""
    launches: int = Field(default=20, ge=1)
    lock_clocks: bool = True
    out: Path | None = None
    run: bool = False
    read: tuple[Path, ...] = ()


def script(config: Config, out: Path) -> list[list[str]]:
    """Returns the commands of a capture.

    Raises:
        ConfigError: If it is not said what to profile, or not so that the tool can.
    """
    if bool(config.program) == (config.pid is not None):
        raise ConfigError(
            "capture has no one thing to profile",
            where="program, pid",
            seen=f"program='{config.program}' pid={config.pid}",
            fix="give one of the two: program='\"python -m …\"' or pid=4711",
        )
    if config.pid is not None and config.tool in ("nsys", "ncu"):
        raise ConfigError(
            f"{config.tool} starts what it profiles", where="pid", seen=config.pid, fix="give program='\"…\"' instead"
        )
    return capture.commands(
        config.tool,
        shlex.split(config.program),
        out,
        seconds=config.seconds,
        delay_seconds=config.delay_seconds,
        kernel=config.kernel,
        launches=config.launches,
        pid=config.pid,
        lock_clocks=config.lock_clocks,
    )


def tables(config: Config, files: Sequence[Path]) -> tuple[list[Table], list[Finding]]:
    """Reads exported files; returns what they hold, and the findings.

    Raises:
        DataError: If a file is of none of the tools.
    """
    shown: list[Table] = []
    findings: list[Finding] = []
    systems = []
    for path in files:
        text = path.read_text(encoding="utf-8-sig")
        if '"Metric Name"' in text:
            kernels = nsight.parse_kernels(text, str(path))
            shown.append(_kernel_table(kernels))
            findings += profile_rules.diagnose_kernels(kernels)
        elif path.suffix in (".csv", ".json"):
            systems.append(path)
        else:
            shown.append(_stack_table(stacks.hotspots(text, str(path))))
    if systems:
        found = nsight.read_capture(systems, seconds=config.seconds)
        shown += [
            _entry_table(title, entries)
            for title, entries in (("Kernels", found.kernels), ("Copies", found.copies), ("Ranges", found.ranges))
            if entries
        ]
        findings += profile_rules.diagnose_capture(found)
    return shown, findings


def _entry_table(title: str, entries: Sequence[nsight.Entry]) -> Table:
    whole = sum(entry.seconds for entry in entries)
    columns = [Column("name", align="left"), Column("time", "ms"), Column("share", "%"), Column("times")]
    rows: list[list[object]] = [
        [entry.name, entry.seconds * 1e3, 100 * entry.seconds / whole if whole else 0.0, entry.count]
        for entry in entries[:_MOST_ROWS]
    ]
    return Table(title, columns, rows)


def _kernel_table(kernels: Sequence[nsight.Kernel]) -> Table:
    names = ("DRAM Throughput", "Compute (SM) Throughput", "Achieved Occupancy")
    columns = [Column("kernel", align="left"), Column("time", "µs"), *(Column(name, "%") for name in names)]
    rows: list[list[object]] = [
        [
            kernel.name,
            kernel.seconds * 1e6 if kernel.seconds is not None else None,
            *(kernel.metrics.get(name) for name in names),
        ]
        for kernel in kernels[:_MOST_ROWS]
    ]
    return Table("Kernels", columns, rows)


def _stack_table(found: Sequence[stacks.Hotspot]) -> Table:
    columns = [Column("function", align="left"), Column("own", "%"), Column("with what it calls", "%")]
    rows: list[list[object]] = [[spot.name, 100 * spot.own, 100 * spot.total] for spot in found]
    return Table("Where the process was", columns, rows)


def exported(config: Config, out: Path) -> list[Path]:
    """Returns what a capture has left to read."""
    if config.tool == "nsys":
        reports = (nsight.KERNELS, nsight.COPIES, nsight.RANGES)
        return [path for name in reports if (path := Path(f"{out}_{name}.csv")).is_file()]
    path = Path(f"{out}.ncu.csv" if config.tool == "ncu" else f"{out}.py-spy.txt")
    return [path] if path.is_file() else []


@app.recipe(Config, capture=False)
def main(config: Config) -> None:
    """Runs the recipe."""
    if config.read:
        _show(config, config.read)
        return
    out = config.out or config.store().home / "profiles" / config.tool
    out.parent.mkdir(parents=True, exist_ok=True)
    commands = script(config, out)
    path = out.with_suffix(".sh")
    path.write_text("#!/usr/bin/env bash\nset -euo pipefail\n" + "".join(f"{shlex.join(each)}\n" for each in commands))
    app.echo(f"script   {path}")
    if not config.run:
        app.echo(f"next     bash {path}")
        return
    capture.require(config.tool)
    for command in commands:
        app.echo(f"runs     {shlex.join(command)}")
        code = subprocess.run(command, check=False, stdout=sys.stderr).returncode
        if code:
            raise EngineError(
                f"{config.tool} failed",
                where=command[0],
                seen=f"exit code {code}",
                fix=f"read its message above; {capture.SOURCES[config.tool]}",
            )
    _show(config, exported(config, out))


def _show(config: Config, files: Sequence[Path]) -> None:
    from throughline.reporting.terminal import print_table

    shown, findings = tables(config, files)
    for table in shown:
        print_table(table)
    if findings:
        print_table(findings_table(Diagnosis(findings=tuple(findings))))
    app.echo(f"read     {len(files)} files, {len(findings)} findings")
    app.echo("next     python -m recipes.diagnose")


if __name__ == "__main__":
    main()
