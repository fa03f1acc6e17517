"""`python -m throughline.gateway --spec FILE.json`: the gateway as a process of its own."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from throughline.contracts.config import parse
from throughline.contracts.errors import GatewayError, ThroughlineError, UserError
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway.server import serve
from throughline.gateway.workers import Place

_PARENT_SECONDS = 1.0


def main(arguments: list[str] | None = None) -> int:
    """Serves a spec and prints `ready http://host:port`, alone on standard output; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m throughline.gateway", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="GatewaySpec as a JSON file")
    parser.add_argument("--parent", type=int, default=0, help="stop when this process, our parent, has gone")
    place = parser.add_argument_group("one of several workers, as the first process starts them")
    place.add_argument("--worker", type=int, help="which one")
    place.add_argument("--listener", type=int, help="descriptor of the socket that they share")
    place.add_argument("--board", type=int, help="descriptor of the file in which they count")
    options = parser.parse_args(arguments)
    if options.parent:
        threading.Thread(target=_stop_with_parent, args=(options.parent,), daemon=True).start()
    # Prompts come one by one: handing each to the tokenizer's thread pool and back only costs.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        found = None if options.worker is None else Place(options.worker, options.listener, options.board)
        serve(read_spec(options.spec), on_ready=_ready, place=found)
    except ThroughlineError as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def read_spec(path: Path) -> GatewaySpec:
    """Reads a `GatewaySpec` from JSON.

    Raises:
        GatewayError: If the file cannot be read or is no JSON object.
        ConfigError: If it does not validate; every fault is named.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GatewayError(
            "the spec cannot be read", where=str(path), seen=str(error), fix="give a JSON file"
        ) from None
    if not isinstance(values, dict):
        raise GatewayError(
            "the spec is no JSON object", where=str(path), seen=type(values).__name__, fix="see GatewaySpec"
        )
    return parse(GatewaySpec, values, where=str(path))


def _stop_with_parent(parent: int) -> None:
    """Ends this process in order once its parent was killed, which leaves nobody else to do it."""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _ready(url: str) -> None:
    # What was loaded lives as long as the process: collections need not look at it again.
    gc.collect()
    gc.freeze()
    print(f"ready {url}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
