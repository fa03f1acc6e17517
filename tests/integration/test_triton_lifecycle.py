"""A real Triton over its life: versions, a dying model process, a dying server, stopping with streams open."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from throughline.contracts.errors import DeployError
from throughline.contracts.serving import ServeSpec
from throughline.triton import repository, state
from throughline.triton.client import TritonClient
from throughline.triton.server import TritonServer
from throughline.triton.switching import running_version, switch

pytestmark = pytest.mark.integration

SPEC = ServeSpec(exit_timeout_seconds=6, drain_timeout_seconds=5)
REQUEST = {"text_input": "The server has stopped.", "max_tokens": 4, "ignore_eos": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("lifecycle")
    repository.render(folder / "repository", "lab", tiny_engine, SPEC)
    with TritonServer(folder / "repository", ["lab"], SPEC, run_dir=folder / "run") as running:
        yield running


def tokens(server: TritonServer) -> tuple[int, ...]:
    with TritonClient(server.grpc_url) as client:
        return client.generate("lab", REQUEST).token_ids


def check_until(server: TritonServer, count: str) -> None:
    """Runs the watchdog's rounds, beside the thread that does the same, until it has acted once."""
    before = getattr(server, count)
    deadline = time.monotonic() + 30
    while getattr(server, count) == before and time.monotonic() < deadline:
        server.check()
    assert getattr(server, count) == before + 1
    # The round that acted has ended when the lock is free again.
    server.check()


def test_a_killed_model_process_is_replaced(server: TritonServer) -> None:
    expected = tokens(server)
    (stub,) = server.stub_pids("lab")
    os.kill(stub, signal.SIGKILL)
    check_until(server, "recoveries")
    assert tokens(server) == expected
    assert server.stub_pids("lab") != [stub]
    assert server.failure is None


def test_a_model_process_that_hangs_is_killed_and_replaced(tiny_engine: Path, tmp_path: Path) -> None:
    """Stopped, so that it lives and says nothing; Triton says that the model is ready all the while."""
    spec = SPEC.model_copy(update={"heartbeat_seconds": 0.5, "hang_seconds": 3.0})
    repository.render(tmp_path / "repository", "lab", tiny_engine, spec)
    with TritonServer(tmp_path / "repository", ["lab"], spec, run_dir=tmp_path / "run") as hanging:
        expected = tokens(hanging)
        (stub,) = hanging.stub_pids("lab")
        os.kill(stub, signal.SIGSTOP)
        with TritonClient(hanging.grpc_url) as client:
            assert client.is_model_ready("lab")
        check_until(hanging, "recoveries")
        assert hanging.hangs == 1
        assert tokens(hanging) == expected
        # One that stopped inside a lock of the shared memory takes the server with it, which is then started again.
        assert hanging.stub_pids("lab") != [stub] and hanging.restarts <= 1


def test_an_embedding_model_beside_it_is_watched_and_switched_as_well(
    server: TritonServer, tiny_embedding_engine: Path, tmp_path: Path
) -> None:
    repo = server.repository
    repository.render(repo, "embedding", tiny_embedding_engine, SPEC)
    server.load("embedding")
    with TritonClient(server.grpc_url) as client:
        expected = client.embed("embedding", [5, 6])
        assert len(expected) == 64
        (stub,) = server.stub_pids("embedding")
        os.kill(stub, signal.SIGKILL)
        check_until(server, "recoveries")
        assert server.stub_pids("embedding") != [stub]
        assert client.embed("embedding", [5, 6]) == expected
        second = Path(shutil.copytree(tiny_embedding_engine, tmp_path / "second"))
        assert switch(client, repo, "embedding", lambda: repository.render(repo, "embedding", second, SPEC)) == 2
        assert running_version(client, repo, "embedding").engine_dir == str(second)
        # One that does not load leaves what was served.
        third = Path(shutil.copytree(tiny_embedding_engine, tmp_path / "third"))
        (third / "openvino_model.bin").unlink()
        with pytest.raises(DeployError, match="engine is incomplete"):
            switch(client, repo, "embedding", lambda: repository.render(repo, "embedding", third, SPEC))
        assert client.embed("embedding", [5, 6]) == expected
    server.unload("embedding")


def test_a_killed_server_is_started_again_on_its_ports(server: TritonServer) -> None:
    expected, urls, pid = tokens(server), (server.http_url, server.grpc_url), server.pid
    os.kill(pid, signal.SIGKILL)
    check_until(server, "restarts")
    assert server.pid != pid
    assert (server.http_url, server.grpc_url) == urls
    assert tokens(server) == expected


def test_a_new_version_is_served_without_a_restart_and_can_be_rolled_back(
    server: TritonServer, tiny_engine: Path, tmp_path: Path
) -> None:
    repo, pid, recoveries = server.repository, server.pid, server.recoveries
    expected = tokens(server)
    former = [psutil.Process(stub) for stub in server.stub_pids("lab")]
    # The same engine again adds nothing.
    assert repository.render(repo, "lab", tiny_engine, SPEC) == 1
    second = tmp_path / "second"
    shutil.copytree(tiny_engine, second)
    assert repository.render(repo, "lab", second, SPEC) == 2
    server.load("lab")
    assert repository.served_version(repo, "lab").engine_dir == str(second)
    assert tokens(server) == expected
    assert ready_versions(server) == {"1": False, "2": True}
    assert len(server.stub_pids("lab")) == 1
    # The process of the former version ends by itself, which is no reason to load the model again.
    _, left = psutil.wait_procs(former, timeout=30)
    assert left == []
    server.check()
    assert server.recoveries == recoveries
    repository.select_version(repo, "lab", 1)
    server.load("lab")
    assert ready_versions(server) == {"1": True, "2": False}
    assert tokens(server) == expected
    assert server.pid == pid


def test_a_version_runs_its_own_code(server: TritonServer, tiny_engine: Path, tmp_path: Path) -> None:
    """Code of a version that says something else than what is installed is what runs, and after a rollback no more."""
    repo, expected = server.repository, tokens(server)
    other = tmp_path / "other"
    shutil.copytree(tiny_engine, other)
    with TritonClient(server.grpc_url) as client:
        before = running_version(client, repo, "lab").number
        number = repository.render(repo, "lab", other, SPEC)
        source = repo / "lab" / str(number) / "lib" / "throughline" / "triton" / "streaming.py"
        source.write_text(source.read_text().replace("text = self.echo + text", 'text = "former " + text'))
        server.load("lab")
        assert client.generate("lab", REQUEST).text.startswith("former ")
        assert running_version(client, repo, "lab").number == number
        repository.select_version(repo, "lab", before)
        server.load("lab")
        assert running_version(client, repo, "lab").number == before
        assert not client.generate("lab", REQUEST).text.startswith("former ") and tokens(server) == expected
    assert "golden prompts answered as when the engine was built" in server.log_path.read_text()


def test_somebody_else_switches_versions_under_the_watchdog(
    server: TritonServer, tiny_engine: Path, tmp_path: Path
) -> None:
    """As `recipes.deploy` does from another process."""
    repo, recoveries, expected = server.repository, server.recoveries, tokens(server)
    former = [psutil.Process(stub) for stub in server.stub_pids("lab")]
    third = tmp_path / "third"
    shutil.copytree(tiny_engine, third)
    with TritonClient(server.grpc_url) as client:
        before = running_version(client, repo, "lab").number
        number = switch(client, repo, "lab", lambda: repository.render(repo, "lab", third, SPEC))
        assert running_version(client, repo, "lab").number == number != before
        _, left = psutil.wait_procs(former, timeout=30)
        assert left == []
        server.check()
        assert server.recoveries == recoveries and tokens(server) == expected
        assert [psutil.Process(stub).is_running() for stub in server.stub_pids("lab")] == [True]
        # One that does not load changes nothing, neither on the server nor in the folder.
        broken = tmp_path / "broken"
        shutil.copytree(tiny_engine, broken)
        (broken / "openvino_model.bin").unlink()
        with pytest.raises(DeployError, match="engine is incomplete"):
            switch(client, repo, "lab", lambda: repository.render(repo, "lab", broken, SPEC))
        assert repository.served_version(repo, "lab").number == number == running_version(client, repo, "lab").number
        assert tokens(server) == expected
        switch(client, repo, "lab", lambda: repository.select_version(repo, "lab", before).number)
        assert running_version(client, repo, "lab").number == before and tokens(server) == expected


def ready_versions(server: TritonServer) -> dict[str, bool]:
    from tritonclient.grpc import InferenceServerClient

    with InferenceServerClient(server.grpc_url) as stock:
        return {version: stock.is_model_ready("lab", version) for version in ("1", "2")}


def test_an_engine_that_cannot_load_says_why(server: TritonServer, tiny_engine: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_engine, broken)
    (broken / "openvino_model.bin").unlink()
    repository.render(server.repository, "broken", broken, SPEC)
    with pytest.raises(DeployError, match=r"engine is incomplete.*no openvino_model\.bin"):
        server.load("broken")
    assert len(tokens(server)) == 4


def test_a_taken_port_is_refused(server: TritonServer, tmp_path: Path) -> None:
    port = int(server.http_url.rpartition(":")[2])
    other = TritonServer(server.repository, ["lab"], ServeSpec(http_port=port), run_dir=tmp_path)
    with pytest.raises(DeployError, match=r"port is taken.*http_port"):
        other.start()


def test_stopping_lets_streams_end_and_leaves_nothing(tiny_engine: Path, tmp_path: Path) -> None:
    repository.render(tmp_path / "repository", "lab", tiny_engine, SPEC)
    server = TritonServer(tmp_path / "repository", ["lab"], SPEC, run_dir=tmp_path / "run")
    server.start()
    written = state.read_state(tmp_path / "run")
    assert written is not None
    assert written.running
    assert state.shared_memory(written.shm_prefix)
    with TritonClient(server.grpc_url) as client:
        stream = client.stream("lab", {**REQUEST, "max_tokens": 400, "stream": True})
        found = [next(stream)]
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        found += list(stream)
        stopping.join()
    assert found[-1].finish_reason == "length"
    assert found[-1].completion_tokens == 400
    assert not written.running
    assert state.read_state(tmp_path / "run") is None
    assert list(state.marked_processes(written.shm_prefix)) == []
    assert state.shared_memory(written.shm_prefix) == []
    with pytest.raises(DeployError, match="not running"):
        _ = server.pid


def connect(host: str, port: int) -> None:
    """Connects; the ports open one after the other, the one for metrics last."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise


def test_it_listens_where_it_is_told_to_and_nowhere_else(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"host": "127.0.0.2"})
    (tmp_path / "repository").mkdir()
    with TritonServer(tmp_path / "repository", [], spec, run_dir=tmp_path / "run") as elsewhere:
        for url in (elsewhere.http_url, elsewhere.grpc_url, elsewhere.metrics_url):
            host, _, port = url.rpartition(":")
            assert host == "127.0.0.2"
            connect(host, int(port))
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(port)), timeout=5)
        found = state.read_state(tmp_path / "run")
        assert found is not None and found.grpc_url == elsewhere.grpc_url
