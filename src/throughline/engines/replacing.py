"""An engine directory takes its files when all of them are written; until then an older engine in it stays whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from throughline.contracts.engine import ENGINE_FILE

_UNFINISHED = ".unfinished"


@contextmanager
def replacing(out_dir: Path) -> Iterator[Path]:
    """Gives a folder to write to, whose files go to `out_dir` in the end, `engine.json` last; nowhere after an error.

    It lies within `out_dir`, so that moving is renaming, and what a killed build left goes with the next one.
    """
    existed = out_dir.is_dir()
    work = out_dir / _UNFINISHED
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        yield work
        (out_dir / ENGINE_FILE).unlink(missing_ok=True)
        for path in sorted(work.iterdir(), key=lambda path: path.name == ENGINE_FILE):
            path.replace(out_dir / path.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if not existed:
            # Kept if there is an engine in it.
            with suppress(OSError):
                out_dir.rmdir()
