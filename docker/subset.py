"""Prints the lines of a lock file for the packages that a list names, hashes included: `subset.py LOCK LIST`.

An image that needs few packages gets them in the versions that were tested together, without a lock file of its own.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def main() -> int:
    """Prints the subset; returns 2 if a package is not in the lock file."""
    lock, names = (Path(argument).read_text(encoding="utf-8") for argument in sys.argv[1:3])
    pins = {pin.split("==")[0]: pin for pin in re.split(r"\n(?=\S)", lock) if re.match(r"[a-z0-9-]+==", pin)}
    wanted = [name for line in names.splitlines() if (name := line.split("#")[0].strip())]
    missing = [name for name in wanted if name not in pins]
    if missing:
        print(f"not in {sys.argv[1]} — {sys.argv[2]} — seen: {', '.join(missing)} — correct the list", file=sys.stderr)
        return 2
    print("\n".join(pins[name].rstrip() for name in wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
