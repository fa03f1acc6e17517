"""The process that an engine of Triton's Python backend steps in: its steps hold the interpreter, the stub's do not.

python -m throughline.triton.engine_worker FD ENGINE_DIR, with FD one end of a socket pair; see `frames`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from throughline.contracts.engine import EngineRuntime, StepOutput
from throughline.contracts.errors import EngineError
from throughline.ranges import range_of
from throughline.triton.frames import Cancel, Load, Loaded, Step, Submit, Wire, to_engine
from throughline.triton.warm_up import warm_up

# Environment variable with the process id of the model.
PARENT = "THROUGHLINE_MODEL_PID"
# prctl(2) in <sys/prctl.h>.
_PR_SET_PDEATHSIG = 1
# A model that does not read is given time to; beyond this the engine would fill the memory with what nobody hears.
_MOST_UNSENT_BYTES = 2**22


def main() -> None:
    """Serves one engine until the other end closes."""
    die_with(int(os.environ[PARENT]))
    # A signal to the process group is the model's affair, which drains before it closes the socket.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wire = Wire(socket.socket(fileno=int(sys.argv[1])))
    serve(wire)
    # Everything that must last is elsewhere, and the destructors of an engine take their time.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def die_with(parent: int) -> None:
    """Has the kernel kill this process when the thread that started it ends, which a hanging step would not notice."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(f"the model's process {parent} has ended already")


def serve(wire: Wire) -> None:
    """Loads the engine that the first frame names and steps it while it has work; returns when the other end closes."""
    runtime: EngineRuntime | None = None
    taken = steps = 0
    while not wire.closed:
        _wait(wire, idle=runtime is None or not runtime.has_work())
        lost: list[StepOutput] = []
        for body in wire.receive():
            frame = to_engine.decode(body)
            taken += 1
            if isinstance(frame, Load):
                runtime = _load(wire, frame)
            elif runtime is None:
                raise EngineError("a request came before an engine", where="first frame", fix="send Load first")
            elif isinstance(frame, Cancel):
                runtime.cancel(frame.request_id)
            else:
                with range_of("engine.submit"):
                    lost += _submit(runtime, frame)
        if runtime is not None and (lost or runtime.has_work()):
            with range_of("engine.step"):
                outputs = lost + runtime.step()
            steps += 1
            stats = dataclasses.replace(runtime.stats(), iterations=steps, stepped_at=time.monotonic())
            wire.send(Step(outputs, stats, taken, runtime.has_work()))


def _wait(wire: Wire, *, idle: bool) -> None:
    """Waits for frames if there is nothing else to do, and for room if the other side does not read."""
    while not wire.closed:
        full = wire.unsent > _MOST_UNSENT_BYTES
        select.select([wire] if not full else [], [wire] if wire.unsent else [], [], None if idle or full else 0)
        wire.flush()
        if not full:
            return


def _load(wire: Wire, frame: Load) -> EngineRuntime | None:
    engine_dir = Path(frame.engine_dir)
    try:
        module, _, function = frame.runtime.partition(":")
        make: Callable[[Path], EngineRuntime] = getattr(importlib.import_module(module), function)
        runtime = make(engine_dir)
        print(warm_up(runtime, engine_dir), file=sys.stderr, flush=True)
    except Exception as error:
        wire.send(Loaded(str(error) or type(error).__name__))
        return None
    wire.send(Loaded())
    return runtime


def _submit(runtime: EngineRuntime, frame: Submit) -> list[StepOutput]:
    try:
        runtime.submit(frame.request_id, frame.prompt_token_ids, frame.params)
    except EngineError as error:
        tokens = len(frame.prompt_token_ids)
        return [StepOutput(frame.request_id, (), "", "error", tokens, 0, str(error), error_kind="invalid")]
    return []


if __name__ == "__main__":
    main()
