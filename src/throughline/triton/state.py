"""What a running server leaves on disk and in the system, and how a later start clears what was orphaned."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from throughline.contracts.errors import DeployError
from throughline.contracts.serving import LOOPBACK

STATE_NAME = "triton.json"
# What every prefix of shared memory begins with: an empty or foreign one would match what is not ours.
MARK = "throughline_"
SHM_DIR = Path("/dev/shm")  # noqa: S108  # where POSIX shared memory lives on Linux


@dataclass(frozen=True)
class ServerState:
    """A server that was started; pids come with their start times because the system reuses pids.

    Attributes:
        pid: The server's process.
        pid_created: Its start in seconds since the epoch.
        supervisor_pid: The process that started and watches it.
        supervisor_created: Its start in seconds since the epoch.
        http_port: Triton's HTTP port.
        grpc_port: Triton's gRPC port.
        metrics_port: Triton's Prometheus port.
        repository: Absolute path of the model repository.
        models: Models loaded at the start.
        shm_prefix: Unique prefix of the shared memory; it stands in every command line of ours.
        log_path: The server's log.
        started: ISO 8601 in UTC.
        host: Address at which this machine reaches the ports.
    """

    pid: int
    pid_created: float
    supervisor_pid: int
    supervisor_created: float
    http_port: int
    grpc_port: int
    metrics_port: int
    repository: str
    models: tuple[str, ...]
    shm_prefix: str
    log_path: str
    started: str
    host: str = LOOPBACK

    @property
    def grpc_url(self) -> str:
        """`host:port` of the gRPC endpoint."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return _lives(self.pid, self.pid_created)

    @property
    def supervised(self) -> bool:
        """Whether the process that watches the server lives."""
        return _lives(self.supervisor_pid, self.supervisor_created)


def write_state(run_dir: Path, state: ServerState) -> None:
    """Replaces the state file atomically."""
    temporary = run_dir / f".{STATE_NAME}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(state), indent=2) + "\n", "utf-8")
    temporary.replace(run_dir / STATE_NAME)


def read_state(run_dir: Path) -> ServerState | None:
    """Returns the last server's state, None if there is none or it cannot be read."""
    try:
        values = json.loads((run_dir / STATE_NAME).read_text("utf-8"))
        state = ServerState(**{**values, "models": tuple(values["models"])})
        return state if is_mark(state.shm_prefix) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def remove_state(run_dir: Path) -> None:
    """Removes the state file."""
    (run_dir / STATE_NAME).unlink(missing_ok=True)


def clear_orphans(run_dir: Path) -> bool:
    """Ends a server whose supervisor was killed, its stubs and its shared memory.

    Returns:
        Whether there was something to clear.

    Raises:
        DeployError: If the server is still supervised by a living process, which may be starting it again.
    """
    state = read_state(run_dir)
    if state is None:
        return False
    if state.supervised and state.supervisor_pid != os.getpid():
        server = f"server pid {state.pid}" if state.running else "the server died and is being started again"
        raise DeployError(
            "a Triton server is already running from this folder",
            where=str(run_dir / STATE_NAME),
            seen=f"{server}, supervisor pid {state.supervisor_pid}",
            fix=f"stop it (kill -TERM {state.supervisor_pid}) or use another run folder",
        )
    kill_marked(state.shm_prefix)
    remove_state(run_dir)
    return True


def kill_marked(shm_prefix: str) -> None:
    """Kills every process that carries this server's mark and removes its shared memory.

    Raises:
        ValueError: If the prefix is none of ours.
    """
    if not is_mark(shm_prefix):
        raise ValueError(f"{shm_prefix!r} marks no server of ours")
    marked = list(marked_processes(shm_prefix))
    for process in marked:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(marked, timeout=5)
    for path in shared_memory(shm_prefix):
        path.unlink(missing_ok=True)


def is_mark(shm_prefix: str) -> bool:
    """Returns whether a prefix of shared memory is one that a server of ours was started with."""
    return shm_prefix.startswith(MARK) and len(shm_prefix) > len(MARK)


def marked_processes(shm_prefix: str) -> Iterable[psutil.Process]:
    """Yields the server and stubs started with this prefix, wherever they hang in the process tree."""
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(shm_prefix in part for part in process.cmdline()):
                yield process
        except psutil.Error:
            continue


def shared_memory(shm_prefix: str) -> list[Path]:
    """Lists the shared memory files with this prefix."""
    return sorted(SHM_DIR.glob(f"{shm_prefix}*"))


def _lives(pid: int, created: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 2.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
