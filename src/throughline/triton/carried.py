"""The code that a version takes with it, so that a rollback runs what it ran before, whatever is installed since."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import throughline
from throughline.contracts.errors import DeployError

PACKAGE = "throughline"
ROOT = Path(throughline.__file__).parent
# Folder of a version, which its `model.py` imports from before anything else.
FOLDER = "lib"


def carried_files(model_source: Path, runtime: str | None = None) -> dict[str, bytes]:
    """Returns every module of ours that a model imports, at any depth and in function bodies too.

    Args:
        model_source: The model's own file.
        runtime: `module:function` that loads the engine, if the model loads one. A module that is not ours is not
            carried; then everything that our own engines need is, since it may import it.

    Returns:
        Source by path below `lib`, sorted.

    Raises:
        DeployError: If a module of ours that is named does not exist.
    """
    todo = [*_imported(model_source.read_bytes())]
    if runtime is not None:
        module = runtime.partition(":")[0]
        todo.append(module if module.partition(".")[0] == PACKAGE else f"{PACKAGE}.engines")
    found: dict[str, bytes] = {}
    while todo:
        name = todo.pop()
        path = _path(name)
        if path is None:
            raise DeployError("a module to serve with does not exist", where=name, fix="correct serve.runtime")
        key = path.relative_to(ROOT.parent).as_posix()
        if key in found:
            continue
        found[key] = path.read_bytes()
        # Importing a module runs its packages first.
        parent = name.rpartition(".")[0]
        todo += [*_imported(found[key]), *([parent] if parent else [])]
    return dict(sorted(found.items()))


def code_digest(model_source: bytes, files: Mapping[str, bytes]) -> str:
    """Returns sha256 over a model's file and what it carries."""
    total = hashlib.sha256(model_source)
    for path, source in files.items():
        total.update(f"\0{path}\0{len(source)}\0".encode())
        total.update(source)
    return total.hexdigest()


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes carried files below a version's folder."""
    for path, source in files.items():
        target = folder / FOLDER / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source)


def _imported(source: bytes) -> Iterator[str]:
    """Modules of ours that a source names in imports; `from a import b` names `a`, and `a.b` where that is one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names if item.name.partition(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == PACKAGE:
            yield node.module
            names = (f"{node.module}.{item.name}" for item in node.names)
            yield from (name for name in names if _path(name) is not None)


def _path(name: str) -> Path | None:
    """The file of a module of ours, found without importing it."""
    base = ROOT.parent.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None
