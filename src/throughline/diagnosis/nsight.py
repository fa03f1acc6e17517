"""What Nsight Systems and Nsight Compute exported, read into numbers.

Systems: `nsys stats --format csv|json` of `cuda_gpu_kern_sum`, `cuda_gpu_mem_time_sum` and `nvtx_sum`; columns are
found by name, whatever unit `--timeunit` wrote. Compute: `ncu --csv --page details`, a metric a row.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from throughline.contracts.errors import DataError

KERNELS, COPIES, RANGES = "cuda_gpu_kern_sum", "cuda_gpu_mem_time_sum", "nvtx_sum"
_UNITS = {"ns": 1e-9, "us": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0}
_TOTAL = re.compile(r"^Total Time \((?P<unit>\w+)\)$")
_NAMES = ("Name", "Operation", "Range")
_COUNTS = ("Instances", "Count")


@dataclass(frozen=True)
class Entry:
    """A kernel, a kind of copy, or a range: its name, seconds in all, and how often it ran."""

    name: str
    seconds: float
    count: int


@dataclass(frozen=True)
class Capture:
    """What a capture of Nsight Systems holds.

    Attributes:
        kernels: By name, the longest first.
        copies: Copies and fills of memory by direction.
        ranges: NVTX ranges by name, `domain:name`.
        seconds: Length of the capture, None if nobody said.
    """

    kernels: tuple[Entry, ...] = ()
    copies: tuple[Entry, ...] = ()
    ranges: tuple[Entry, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class Kernel:
    """What Nsight Compute says of a kernel, on average over its launches.

    Attributes:
        name: The kernel.
        seconds: Of a launch, None if it was not measured.
        metrics: By name, in percent where Nsight Compute gives that.
    """

    name: str
    seconds: float | None
    metrics: Mapping[str, float]


def read_capture(files: Sequence[Path], *, seconds: float | None = None) -> Capture:
    """Reads exported reports; the kind of each is told by its columns.

    Raises:
        DataError: If a file is none of them.
    """
    found: dict[str, list[Entry]] = {KERNELS: [], COPIES: [], RANGES: []}
    for path in files:
        for kind, entries in parse_stats(path.read_text(encoding="utf-8-sig"), str(path)):
            found[kind] += entries
    return Capture(
        kernels=_longest_first(found[KERNELS]),
        copies=_longest_first(found[COPIES]),
        ranges=_longest_first(found[RANGES]),
        seconds=seconds,
    )


def parse_stats(text: str, where: str) -> list[tuple[str, list[Entry]]]:
    """Returns each table of a text with its report's name; lines of progress around them are passed over.

    Raises:
        DataError: If there is no table that we know.
    """
    tables = _json_tables(text, where) if text.lstrip().startswith(("[", "{")) else list(_csv_tables(text))
    found = [(kind, entries) for rows in tables for kind, entries in _entries(rows, where)]
    if not found:
        raise DataError(
            "file holds none of the reports that we read",
            where=where,
            seen=text.strip().splitlines()[0][:80] if text.strip() else "an empty file",
            fix=f"nsys stats --report {KERNELS} --report {COPIES} --report {RANGES} --format csv FILE.nsys-rep",
        )
    return found


def _csv_tables(text: str) -> Iterator[list[dict[str, str]]]:
    lines = text.splitlines()
    start = 0
    while start < len(lines):
        if not _is_header(lines[start]):
            start += 1
            continue
        end = start + 1
        while end < len(lines) and lines[end].strip() and not _is_header(lines[end]):
            end += 1
        width = len(next(csv.reader([lines[start]])))
        rows = csv.DictReader(io.StringIO("\n".join(lines[start:end])))
        yield [row for row in rows if None not in row and len([v for v in row.values() if v is not None]) == width]
        start = end


def _is_header(line: str) -> bool:
    cells = next(csv.reader([line]), [])
    return any(_TOTAL.match(cell) for cell in cells) and bool(set(cells) & set(_NAMES))


def _json_tables(text: str, where: str) -> list[list[dict[str, str]]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError("file is not JSON", where=where, seen=str(error), fix="export it again") from None
    rows = found if isinstance(found, list) else [found]
    if any(not isinstance(row, dict) for row in rows):
        raise DataError("file is no table", where=where, seen=type(rows[0]).__name__, fix="nsys stats --format json")
    return [rows]


def _entries(rows: Sequence[Mapping[str, object]], where: str) -> Iterator[tuple[str, list[Entry]]]:
    if not rows:
        return
    columns = list(rows[0])
    total = next((match for column in columns if (match := _TOTAL.match(column))), None)
    name = next((column for column in _NAMES if column in columns), None)
    count = next((column for column in _COUNTS if column in columns), None)
    if total is None or name is None or count is None or total["unit"] not in _UNITS:
        return
    # `cuda_api_sum` has the columns of kernels, but for "Num Calls".
    kind = {"Name": KERNELS, "Operation": COPIES, "Range": RANGES}[name]
    factor = _UNITS[total["unit"]]
    try:
        yield (
            kind,
            [Entry(str(row[name]), _number(row[total.string]) * factor, round(_number(row[count]))) for row in rows],
        )
    except (KeyError, ValueError) as error:
        raise DataError("report has a row that is none", where=where, seen=str(error), fix="export it again") from None


def _number(value: object) -> float:
    return float(str(value).replace(",", ""))


def _longest_first(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: -entry.seconds))


def parse_kernels(text: str, where: str) -> list[Kernel]:
    """Reads `ncu --csv --page details`: means over the launches of each kernel.

    Raises:
        DataError: If it has no such table.
    """
    lines = text.splitlines()
    start = next(
        (index for index, line in enumerate(lines) if '"Kernel Name"' in line and '"Metric Name"' in line), None
    )
    if start is None:
        raise DataError(
            "file holds no table of Nsight Compute",
            where=where,
            seen=lines[0][:80] if lines else "an empty file",
            fix="ncu --import FILE.ncu-rep --csv --page details",
        )
    values: dict[str, dict[str, list[float]]] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[start:]))):
        text_value = row.get("Metric Value") or row.get("Average") or ""
        try:
            value = _number(text_value)
        except ValueError:
            # Rules and texts stand in the same column.
            continue
        name, unit = row["Metric Name"] or "", (row["Metric Unit"] or "").removesuffix("econd")
        value *= _UNITS.get(unit, 1.0) if name == "Duration" else 1.0
        values.setdefault(row["Kernel Name"] or "", {}).setdefault(name, []).append(value)
    return [_kernel(name, metrics) for name, metrics in values.items()]


def _kernel(name: str, metrics: Mapping[str, Sequence[float]]) -> Kernel:
    means = {metric: sum(found) / len(found) for metric, found in metrics.items()}
    return Kernel(name, means.pop("Duration", None), means)
