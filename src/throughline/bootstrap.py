"""Sets up `.venv` from the lock file with nothing but Python 3.11's standard library.

Run as `python3.11 src/throughline/bootstrap.py`; a second call finds its stamp and returns at once.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
STAMP = "throughline-setup.json"
# What the installers print; people see one line a step.
LOG = "setup.log"


def main() -> int:
    """Creates or completes the environment; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="the environment's folder")
    parser.add_argument("--torch", choices=["auto", "cpu", "cuda"], default="auto", help="which build of torch")
    arguments = parser.parse_args()
    if sys.version_info[:2] not in {(3, 11), (3, 12)}:
        print(
            f"set-up needs Python 3.11 or 3.12 — seen: {platform.python_version()} — "
            "run it with another interpreter, e.g. make PYTHON=python3.11 setup",
            file=sys.stderr,
        )
        return 2
    build = ("cuda" if has_nvidia_driver() else "cpu") if arguments.torch == "auto" else arguments.torch
    wanted = {"key": key_of(build), "torch": build}
    if is_set_up(arguments.venv, wanted["key"]):
        return 0
    with alone(arguments.venv):
        # Another call may have done it meanwhile.
        return 0 if is_set_up(arguments.venv, wanted["key"]) else set_up(arguments.venv, wanted)


def is_set_up(folder: Path, key: str) -> bool:
    """Returns whether the environment is complete and of this key."""
    stamp = folder / STAMP
    return stamp.is_file() and json.loads(stamp.read_text()).get("key") == key


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a second set-up of the same environment waiting until the first one has ended, however it ended."""
    path = folder.with_name(f"{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process sets up {folder.name}; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def set_up(folder: Path, wanted: dict[str, str]) -> int:
    """Installs what is missing and leaves the stamp; returns the exit code."""
    build = wanted["torch"]
    print(f"setting up {folder.name}: torch {build} build and the locked packages (2 to 5 minutes)", flush=True)
    started = time.monotonic()
    try:
        install(folder, build)
    except subprocess.CalledProcessError as error:
        log = folder / LOG
        print("\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]), file=sys.stderr)
        print(
            f"set-up failed — {' '.join(map(str, error.cmd[:6]))} … — exit code {error.returncode} — "
            f"read {log}, then run the same command again; what is installed is kept",
            file=sys.stderr,
        )
        return 1
    (folder / STAMP).write_text(json.dumps(wanted | {"seconds": round(time.monotonic() - started, 1)}) + "\n")
    print(f"set up in {time.monotonic() - started:.0f} s", flush=True)
    return 0


def has_nvidia_driver() -> bool:
    """Returns whether this machine has an NVIDIA driver."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def key_of(build: str) -> str:
    """Returns a key that changes with the lock file, the package metadata, the interpreter and the torch build."""
    text = LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    return hashlib.sha256(text + f"{build}{sys.version}{ROOT}".encode()).hexdigest()


def install(folder: Path, build: str) -> None:
    """Installs torch, the locked packages and this package into `folder`.

    Raises:
        subprocess.CalledProcessError: If an installer fails.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        with step("virtual environment"):
            venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    with (folder / LOG).open("wb") as log:

        def run(*command: str) -> None:
            subprocess.run(command, check=True, env=environment, stdout=log, stderr=subprocess.STDOUT)

        def pip(*arguments: str) -> None:
            run(str(python), "-m", "pip", "install", "--progress-bar", "off", *arguments)

        torch = locked("torch")
        with step(f"torch {torch}, {build} build"):
            if build == "cuda":
                # Without hashes: pip would ask for those of everything that torch brings along.
                versions = folder / "versions.txt"
                versions.write_text("".join(f"{pin.split()[0]}\n" for pin in pins()))
                pip(f"torch=={torch}", "-c", str(versions))
            elif pip_offers_cpu_torch(python, torch, environment):
                pip("--no-deps", f"torch=={torch}")
            else:
                # uv knows where PyTorch publishes its CPU builds, so no index address has to stand here.
                pip(f"uv=={locked('uv')}")
                uv = [str(folder / "bin" / "uv"), "pip", "install", "--python", str(python), "--no-deps"]
                run(*uv, "--torch-backend=cpu", f"torch=={torch}")
        rest = [pin for pin in pins() if not pin.startswith("torch==")]
        listed = folder / "requirements.rest.txt"
        listed.write_text("".join(f"{pin}\n" for pin in rest))
        with step(f"{len(rest)} locked packages"):
            # The lock is complete, so resolving again would only cost time.
            pip("--no-deps", "--require-hashes", "-r", str(listed))
        with step("this package"):
            pip("--no-deps", "--no-build-isolation", "-e", str(ROOT))


@contextlib.contextmanager
def step(label: str) -> Iterator[None]:
    """Prints one line: what is being installed, and its seconds once it is."""
    print(f"  {label} … ", end="", flush=True)
    started = time.monotonic()
    yield
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def pip_offers_cpu_torch(python: Path, version: str, environment: dict[str, str]) -> bool:
    """Returns whether the indexes and folders that pip is configured for give a CPU build of torch."""
    if sys.platform == "darwin" or "arm" in sysconfig.get_platform():
        return True
    command = [str(python), "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "-q"]
    done = subprocess.run(
        [*command, "--report", "-", f"torch=={version}"], capture_output=True, text=True, env=environment
    )
    return done.returncode == 0 and "+cpu" in re.sub(r"%2[Bb]", "+", done.stdout)


def pins() -> list[str]:
    """Returns the requirements of the lock file, each `name==version --hash=… --hash=…` on one line."""
    text = LOCK.read_text().replace("\\\n", " ")
    lines = (" ".join(line.split("#")[0].split()) for line in text.splitlines())
    return [line for line in lines if line]


def locked(name: str) -> str:
    """Returns the locked version of a package.

    Raises:
        SystemExit: If the lock file does not pin it.
    """
    for pin in pins():
        if pin.startswith(f"{name}=="):
            return pin.split()[0].split("==")[1]
    raise SystemExit(f"{LOCK.name} does not pin {name}")


if __name__ == "__main__":
    sys.exit(main())
