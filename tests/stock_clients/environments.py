"""Virtual environments of the clients, each from its pinned file in this folder.

python -m tests.stock_clients.environments aiperf genai-perf lm-eval

They are too large for the project's own environment and want other versions of the same libraries. Folders lie in
`.stock-clients/`, or where THROUGHLINE_STOCK_CLIENTS says; one whose file has changed is made anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = tuple(sorted(path.stem.removeprefix("requirements-") for path in HERE.glob("requirements-*.txt")))


def folder(name: str) -> Path:
    """Where the environment of a client is or would be."""
    root = os.environ.get("THROUGHLINE_STOCK_CLIENTS") or HERE.parents[1] / ".stock-clients"
    return Path(root).resolve() / name


def is_made(name: str) -> bool:
    """Whether the environment is there, whole, and of today's requirements."""
    stamp = folder(name) / "requirements.txt"
    return stamp.is_file() and stamp.read_bytes() == _requirements(name).read_bytes()


def make(name: str) -> None:
    """Makes it; the requirements' copy is written last, so that one that was cut short is no environment.

    Raises:
        subprocess.CalledProcessError: If pip fails.
    """
    path = folder(name)
    venv.create(path, with_pip=True, clear=True)
    pip = [str(path / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--requirement", str(_requirements(name))], check=True)
    (path / "requirements.txt").write_bytes(_requirements(name).read_bytes())


def _requirements(name: str) -> Path:
    return HERE / f"requirements-{name}.txt"


def main() -> int:
    """Makes what is named and missing."""
    wrong = [name for name in sys.argv[1:] if name not in NAMES]
    if wrong or not sys.argv[1:]:
        print(f"usage: python -m tests.stock_clients.environments NAME …, of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for name in sys.argv[1:]:
        if not is_made(name):
            make(name)
        print(folder(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
