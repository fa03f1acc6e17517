"""Where the Triton binary is, what its Python stub needs, and the command line that starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from throughline.contracts.errors import DeployError, MissingDependencyError


@dataclass(frozen=True)
class Installation:
    """The parts of an embedded Triton.

    Attributes:
        binary: `tritonserver`.
        backends: Folder with the python backend's library.
        caches: Folder with the cache implementations.
        stub: The Python backend's process for this Python version.
        library_dir: Folder of libpython, or None where the loader finds it by itself.
    """

    binary: Path
    backends: Path
    caches: Path
    stub: Path
    library_dir: Path | None


def find_installation() -> Installation:
    """Finds the server in the `nvidia-pytriton` wheel and checks what it needs.

    Raises:
        MissingDependencyError: If the wheel or libpython is missing, or numpy is 2 or newer.
        DeployError: If the wheel has no stub for this Python.
    """
    spec = util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "the Triton server is not installed",
            where=sys.prefix,
            fix="run `pip install nvidia-pytriton==0.7.0` or `make setup`",
        )
    root = Path(spec.origin).parent / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise DeployError(
            "the Triton wheel has no Python stub for this Python",
            where=str(stub.parent.parent),
            seen=f"Python {version}",
            fix="use Python 3.11 or 3.12",
        )
    check_numpy(metadata.version("numpy"))
    return Installation(root / "bin" / "tritonserver", root / "backends", root / "caches", stub, find_libpython())


def check_numpy(version: str) -> None:
    """Refuses numpy 2: the stub would read wrong values from tensors without any error.

    Raises:
        MissingDependencyError: If the major version is 2 or more.
    """
    if int(version.partition(".")[0]) >= 2:
        raise MissingDependencyError(
            "Triton's Python stub silently corrupts tensors with numpy 2",
            seen=f"numpy {version}",
            fix="install numpy<2 in this environment",
        )


def find_libpython(values: Mapping[str, object] | None = None) -> Path | None:
    """Returns the folder of this interpreter's shared library, None if the loader finds it by itself.

    Args:
        values: `sysconfig.get_config_vars()`, replaceable in tests.

    Raises:
        MissingDependencyError: If this Python was built without a shared library.
    """
    known = sysconfig.get_config_vars() if values is None else values
    soname = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    candidates = list(_library_dirs(known))
    for folder in candidates:
        if (folder / soname).exists():
            return folder
    if _loader_knows(soname):
        return None
    raise MissingDependencyError(
        "Triton's Python stub needs libpython, and this Python has none",
        where=", ".join(str(folder) for folder in candidates),
        seen=f"no {soname}",
        fix="use a Python built with --enable-shared: the distribution's with its libpython package, or uv's",
    )


def _library_dirs(values: Mapping[str, object]) -> Iterator[Path]:
    library = str(values.get("LIBDIR") or "")
    if library:
        yield Path(library)
        if values.get("MULTIARCH"):
            yield Path(library) / str(values["MULTIARCH"])
    yield Path(sys.base_prefix) / "lib"


def _loader_knows(soname: str) -> bool:
    for command in ("ldconfig", "/sbin/ldconfig"):
        try:
            listing = subprocess.run([command, "-p"], capture_output=True, text=True, timeout=10, check=False)
        except OSError:
            continue
        return any(line.split()[:1] == [soname] for line in listing.stdout.splitlines())
    return False


def assemble_backends(installation: Installation, folder: Path) -> Path:
    """Makes the backend directory that the wheel lacks: its python backend plus the stub, as links.

    The stub must be a link: a copy loses the relative path to its libraries.
    """
    python = folder / "python"
    python.mkdir(parents=True, exist_ok=True)
    sources = [*(installation.backends / "python").iterdir(), installation.stub]
    for source in sources:
        link = python / source.name
        if not (link.is_symlink() and link.readlink() == source):
            link.unlink(missing_ok=True)
            link.symlink_to(source)
    return folder


def environment(installation: Installation) -> dict[str, str]:
    """Returns the environment in which the stub finds libpython, this environment and our package."""
    env = dict(os.environ)
    # Not resolved: the venv's own bin first makes the stub's sys.prefix the venv.
    env["PATH"] = _join(str(Path(sys.executable).parent), env.get("PATH"))
    if installation.library_dir is not None:
        env["LD_LIBRARY_PATH"] = _join(str(installation.library_dir), env.get("LD_LIBRARY_PATH"))
    env["PYTHONPATH"] = _join(str(Path(__file__).parents[2]), env.get("PYTHONPATH"))
    env["PYTHONUNBUFFERED"] = "1"
    env.setdefault("TOKENIZERS_PARALLELISM", "false")
    env.pop("PYTHONHOME", None)
    return env


def command(
    installation: Installation,
    *,
    repository: Path,
    backends: Path,
    host: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    shm_prefix: str,
    exit_timeout_seconds: int,
    trace_flags: Sequence[str] = (),
) -> list[str]:
    """Returns the server's command line; models are loaded on request."""
    return [
        str(installation.binary),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--cache-directory={installation.caches}",
        f"--http-address={host}",
        f"--grpc-address={host}",
        f"--metrics-address={host}",
        f"--http-port={http_port}",
        f"--grpc-port={grpc_port}",
        f"--metrics-port={metrics_port}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--allow-gpu-metrics=false",
        "--log-format=ISO8601",
        f"--exit-timeout-secs={exit_timeout_seconds}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        *trace_flags,
    ]


def _join(first: str, rest: str | None) -> str:
    return first if not rest else f"{first}{os.pathsep}{rest}"
