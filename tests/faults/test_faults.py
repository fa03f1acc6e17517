"""What breaks while streams are open, on the real Triton, engine and gateway; `conftest.py` prints the table.

python -m pytest tests/faults -m slow
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.faults.conftest import Record
from tests.faults.load import Load, body, error_code
from throughline.contracts.engine import SamplingParams
from throughline.contracts.errors import DeployError, StorageError
from throughline.contracts.gateway import GatewaySpec, GatewayTimeouts, ModelRoute, StreamUse, UpstreamSettings
from throughline.contracts.serving import ServeSpec
from throughline.gateway import GatewayProcess
from throughline.gateway.upstream import infer_request
from throughline.triton import metrics_page, repository
from throughline.triton.client import TritonClient
from throughline.triton.server import TritonServer
from throughline.triton.switching import running_version, switch

pytestmark = [pytest.mark.slow, pytest.mark.integration]

SPEC = ServeSpec(
    metrics_interval_ms=50,
    cancel_poll_interval_ms=10,
    heartbeat_seconds=1.0,
    hang_seconds=4.0,
    exit_timeout_seconds=6,
    drain_timeout_seconds=5,
)
TIMEOUTS = GatewayTimeouts(inter_token_seconds=3.0, first_token_seconds=10.0, drain_seconds=20.0)
# What a client may send again as it is.
RETRYABLE = {"upstream_unavailable", "upstream_timeout", "not_ready"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("faults")
    repository.render(folder / "repository", "lab", tiny_engine, SPEC)
    with TritonServer(folder / "repository", ["lab"], SPEC, run_dir=folder / "run") as running:
        yield running


@pytest.fixture(scope="module")
def new_gateway(server: TritonServer, tiny_engine: Path) -> Callable[..., GatewayProcess]:
    def make(stream: StreamUse = "request") -> GatewayProcess:
        route = ModelRoute(id="lab", upstream=server.grpc_url, triton_model="lab", engine_dir=tiny_engine)
        upstream = UpstreamSettings(stream=stream)
        return GatewayProcess(GatewaySpec(port=0, models=(route,), timeouts=TIMEOUTS, upstream=upstream))

    return make


@pytest.fixture(scope="module")
def gateway(new_gateway: Callable[..., GatewayProcess]) -> Iterator[GatewayProcess]:
    with new_gateway() as process:
        yield process


def seconds_until_ready(gateway: GatewayProcess, since: float) -> float:
    """Until a whole answer comes again, asked over and over."""
    while time.monotonic() - since < 60:
        try:
            answer = httpx.post(f"{gateway.url}/v1/completions", json={**body(2), "stream": False}, timeout=5)
        except httpx.ReadTimeout:
            # One that a model took before it was killed: Triton never ends it, and the gateway's limits are longer.
            continue
        if answer.status_code == 200:
            return time.monotonic() - since
        assert answer.status_code in (503, 504), answer.text
    raise TimeoutError("not ready again")


def active(server: TritonServer) -> int:
    host, _, port = server.metrics_url.rpartition(":")
    return metrics_page.active_requests(metrics_page.fetch(host, int(port)))


def until_idle(server: TritonServer) -> float:
    started = time.monotonic()
    while active(server):
        assert time.monotonic() - started < 30
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("who", "number"),
    [
        ("engine", signal.SIGKILL),
        ("engine", signal.SIGSTOP),
        ("model", signal.SIGKILL),
        ("model", signal.SIGSTOP),
        ("tritonserver", signal.SIGKILL),
    ],
)
def test_a_process_that_fails_under_open_streams(
    who: str, number: signal.Signals, server: TritonServer, gateway: GatewayProcess, record: Record
) -> None:
    [stub] = server.stub_pids("lab")
    [engine] = psutil.Process(stub).children()
    with Load(gateway.url, 20) as load:
        begun = time.monotonic()
        os.kill({"engine": engine.pid, "model": stub, "tritonserver": server.pid}[who], number)
        ends = load.join()
        told = load.last - begun
        recovered = seconds_until_ready(gateway, begun)
    # A stream may have been at its end.
    assert set(ends) <= RETRYABLE | {"finished"} and ends["finished"] < 20, ends
    assert until_idle(server) < 5
    assert not engine.is_running()
    record(f"{who}: {number.name}", ends, told, recovered)


@pytest.mark.parametrize("stream", ["request", "multiplexed"])
def test_a_model_that_is_killed_under_whole_answers_and_streams(
    stream: StreamUse, server: TritonServer, new_gateway: Callable[..., GatewayProcess], record: Record
) -> None:
    """Triton never ends what a dead process had taken; TIMEOUTS.total_seconds is 600."""
    [stub] = server.stub_pids("lab")
    whole = {**body(490), "stream": False}
    with new_gateway(stream) as gateway, ThreadPoolExecutor(10) as pool, Load(gateway.url, 10, tokens=490) as load:
        answers = [pool.submit(httpx.post, f"{gateway.url}/v1/completions", json=whole, timeout=60) for _ in range(10)]
        # An engine that is warm ends the first of them before the last has come.
        while active(server) < 20 and not any(answer.done() for answer in answers):
            pass
        begun = time.monotonic()
        os.kill(stub, signal.SIGKILL)
        ends = load.join()
        ends += Counter(
            "finished" if answer.result().status_code == 200 else error_code(answer.result().json())
            for answer in answers
        )
        told = time.monotonic() - begun
        recovered = seconds_until_ready(gateway, begun)
    assert set(ends) <= RETRYABLE | {"finished"} and ends["finished"] < 20, ends
    # As long as a message may take, and the look at the clock.
    assert told < max(TIMEOUTS.inter_token_seconds, TIMEOUTS.first_token_seconds) + 2
    record(f"model: SIGKILL, whole answers too, {stream}", ends, told, recovered)


def test_sigterm_of_a_gateway_with_100_streams(
    server: TritonServer, new_gateway: Callable[..., GatewayProcess], record: Record
) -> None:
    with new_gateway() as ending, Load(ending.url, 100, tokens=200) as load:
        begun = time.monotonic()
        os.kill(ending.pid, signal.SIGTERM)
        ends = load.join()
        told = load.last - begun
    assert ends == {"finished": 100}
    assert until_idle(server) < 5
    record("gateway: SIGTERM with 100 streams", ends, told, None)


def test_a_rollback_under_load_drops_nothing(
    server: TritonServer, gateway: GatewayProcess, tiny_engine: Path, tmp_path: Path, record: Record
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_engine, other)
    repo = server.repository
    with TritonClient(server.grpc_url) as client:
        before = running_version(client, repo, "lab").number
        with Load(gateway.url, 20, tokens=450) as load:
            begun = time.monotonic()
            number = switch(client, repo, "lab", lambda: repository.render(repo, "lab", other, SPEC))
            deployed = time.monotonic() - begun
            with Load(gateway.url, 20, tokens=450) as later:
                begun = time.monotonic()
                switch(client, repo, "lab", lambda: repository.select_version(repo, "lab", before).number)
                rolled = time.monotonic() - begun
                ends = load.join() + later.join()
        assert running_version(client, repo, "lab").number == before != number
    assert ends == {"finished": 40}
    record("deploy and roll back under load", ends, deployed, rolled)


def test_an_engine_that_does_not_load_changes_nothing(
    server: TritonServer, gateway: GatewayProcess, tiny_engine: Path, tmp_path: Path, record: Record
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_engine, broken)
    (broken / "openvino_model.bin").unlink()
    with TritonClient(server.grpc_url) as client, Load(gateway.url, 20) as load:
        begun = time.monotonic()
        with pytest.raises(DeployError, match="engine is incomplete"):
            switch(client, server.repository, "lab", lambda: repository.render(server.repository, "lab", broken, SPEC))
        told = time.monotonic() - begun
        ends = load.join()
    assert ends == {"finished": 20}
    record("an engine that does not load", ends, told, 0.0)


def test_a_port_that_is_taken(server: TritonServer, tmp_path: Path, record: Record) -> None:
    port = int(server.grpc_url.rpartition(":")[2])
    begun = time.monotonic()
    with pytest.raises(DeployError, match="port is taken"):
        TritonServer(server.repository, ["lab"], SPEC.model_copy(update={"grpc_port": port}), run_dir=tmp_path).start()
    assert not list(tmp_path.glob("triton.json"))
    record("port taken", {}, time.monotonic() - begun, None)


def in_small_folder(mount: Path, size: str, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a mount namespace of its own, in which `mount` is a file system of `size`."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    script = f'mount -t tmpfs -o size={size} tmpfs {mount} && exec {sys.executable} -c {shlex.quote(code)} "$@"'
    command = ["unshare", "--mount", "bash", "-c", script, "bash", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])


DEPLOY = """
import sys
from pathlib import Path
from throughline.contracts.errors import StorageError
from throughline.contracts.serving import ServeSpec
from throughline.triton import repository
target, engine, other = map(Path, sys.argv[1:])
print(repository.render(target / "r", "lab", engine, ServeSpec()))
(target / "ballast").write_bytes(b"x" * 2**18)
try:
    while True:
        with open(target / "ballast", "ab") as file:
            file.write(b"x" * 4096)
except OSError:
    pass
try:
    repository.render(target / "r", "lab", other, ServeSpec())
except StorageError as error:
    print(error)
print(repository.served_version(target / "r", "lab").number, sorted(p.name for p in (target / "r" / "lab").iterdir()))
"""


def test_a_disk_that_fills_while_deploying(tiny_engine: Path, tmp_path: Path, record: Record) -> None:
    mount, other = tmp_path / "small", tmp_path / "other"
    mount.mkdir()
    shutil.copytree(tiny_engine, other)
    begun = time.monotonic()
    done = in_small_folder(mount, "1m", DEPLOY, str(mount), str(tiny_engine), str(other))
    first, error, last = done.stdout.splitlines()
    assert (first, last) == ("1", "1 ['1', 'config.pbtxt']"), done.stderr
    assert "disk is full" in error or "No space left" in error
    assert StorageError.__name__ not in done.stderr
    record("disk full while deploying", {}, time.monotonic() - begun, 0.0)


SMALL_SHM = """
import sys, time
from pathlib import Path
from throughline.contracts.serving import ServeSpec
from throughline.triton import repository
from throughline.triton.client import InferenceError, TritonClient
from throughline.triton.server import TritonServer
folder, engine = map(Path, sys.argv[1:])
spec = ServeSpec(exit_timeout_seconds=6, drain_timeout_seconds=5)
repository.render(folder / "r", "lab", engine, spec)
with TritonServer(folder / "r", ["lab"], spec, run_dir=folder / "run") as server:
    with TritonClient(server.grpc_url) as client:
        ballast = open("/dev/shm/ballast", "wb", buffering=0)
        try:
            while True:
                ballast.write(b"x" * 65536)
        except OSError:
            pass
        seen = set()
        for size in (10, 400) * 20:
            try:
                # An input of its own size, and as much output.
                asked = {"text_input": "a " * 60000 if size == 400 else "a", "max_tokens": 4}
                client.generate("lab", asked, timeout_seconds=20)
                seen.add("answered")
            except InferenceError as error:
                seen.add("error")
        ballast.close()
        Path("/dev/shm/ballast").unlink()
        deadline = time.monotonic() + 30
        while True:
            try:
                client.generate("lab", {"text_input": "a", "max_tokens": 4}, timeout_seconds=20)
                break
            except InferenceError:
                if time.monotonic() > deadline:
                    raise
        print(sorted(seen))
print(len(list(Path("/dev/shm").iterdir())))
"""


def test_shared_memory_that_is_full(tiny_engine: Path, tmp_path: Path, record: Record) -> None:
    """Whatever is asked meanwhile gets an answer or an error within 20 s, and afterwards all is well."""
    begun = time.monotonic()
    done = in_small_folder(Path("/dev/shm"), "24m", SMALL_SHM, str(tmp_path), str(tiny_engine))
    assert done.returncode == 0, done.stdout + done.stderr
    seen, left = done.stdout.splitlines()
    assert "error" in seen and left == "0"
    record("/dev/shm full", {}, time.monotonic() - begun, None)


def test_10000_cancels(server: TritonServer, record: Record) -> None:
    cancels, together = 10_000, 40
    begun = time.monotonic()
    asyncio.run(cancel_many(server.grpc_url, cancels, together))
    took = time.monotonic() - begun
    assert until_idle(server) < 5
    freed = sorted(asyncio.run(cancel_and_watch(server)) for _ in range(200))
    p99 = freed[int(0.99 * len(freed))]
    # The gauge is 50 ms old at most, and the look at it takes its time too.
    assert p99 < 0.2, (statistics.median(freed), p99)
    record(f"{cancels:,} cancels", {"cancelled": cancels}, took, p99)


async def cancel_many(url: str, count: int, together: int) -> None:
    """Opens streams, reads a token of each and leaves."""
    from grpc import aio
    from tritonclient.grpc import service_pb2_grpc

    left = count
    async with aio.insecure_channel(url, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def user() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await one_token(stub)

        await asyncio.gather(*(user() for _ in range(together)))


async def one_token(stub: Any) -> None:
    params = SamplingParams(max_tokens=500, ignore_eos=True)
    call = stub.ModelStreamInfer()
    await call.write(infer_request("lab", "", [5, 6, 7], params, stream=True))
    await call.done_writing()
    await call.read()
    call.cancel()


async def cancel_and_watch(server: TritonServer) -> float:
    """Seconds from a cancel until the engine has no request any more."""
    from grpc import aio
    from tritonclient.grpc import service_pb2_grpc

    async with aio.insecure_channel(server.grpc_url, options=[("grpc.enable_http_proxy", 0)]) as channel:
        await one_token(service_pb2_grpc.GRPCInferenceServiceStub(channel))
        started = time.monotonic()
        while active(server):
            if time.monotonic() - started > 10:
                raise TimeoutError("a cancelled request stays")
        return time.monotonic() - started
