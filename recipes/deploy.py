"""Renders the Triton model repository and runs the real server from it until Ctrl-C.

python -m recipes.deploy
python -m recipes.deploy embedding.target=3f2a91         # with an engine for embeddings beside it
python -m recipes.deploy action=status
python -m recipes.deploy version=1             # back to a version, on a server that runs without a restart
python -m recipes.deploy action=render target=<digest>   # of a build job: TensorRT-LLM's layouts, for a GPU machine
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
from pydantic import model_validator

from recipes import app, references, service
from recipes.tuned import Tunable
from throughline.artifacts import Artifact, code_version
from throughline.contracts.errors import DeployError
from throughline.contracts.serving import LOOPBACK, ServeSpec

if TYPE_CHECKING:
    from recipes.deploy_gpu import GpuTarget
    from throughline.triton.state import ServerState

CHECK_PROMPT = "Hello"
_ALIASES = ("promoted", "previous", "candidate", "latest")


class Config(Tunable):
    """Settings of `recipes.deploy`; `target` is what `references.engine` reads."""

    serve: ServeSpec
    action: Literal["start", "render", "status", "stop"] = "start"
    target: str = "promoted"
    name: str = "lab"
    embedding: service.EmbeddingTarget = service.EmbeddingTarget()
    version: int = 0

    _names_differ = model_validator(mode="after")(service.names_differ)


def make(config: Config) -> int:
    """Renders the repository and returns the version that is served."""
    store = config.store()
    repository = config.paths.model_repository
    if config.version:
        from throughline.triton.repository import select_version

        return select_version(repository, config.name, config.version).number
    engine = references.engine(store, config.target, config.profile)
    return service.render(engine, config.name, config.serve, repository)


def make_beside(config: Config) -> dict[str, int]:
    """Renders the embedding engine that is served beside, if one is; returns its name and version."""
    engines = config.embedding.engines(config.store(), config.profile)
    return {
        name: service.render(engine, name, config.serve, config.paths.model_repository)
        for name, engine in engines.items()
    }


def make_checked(config: Config) -> Artifact:
    """Renders the repository and proves that it serves: the deployment artifact holds the first answer.

    Raises:
        DeployError: If the server does not come up with the model.
    """
    from throughline.triton.client import TritonClient
    from throughline.triton.server import TritonServer

    store = config.store()
    engine = references.engine(store, config.target, config.profile)
    repository = config.paths.model_repository
    version = service.render(engine, config.name, config.serve, repository)
    stage = store.stage(
        "deployment",
        config.name,
        inputs={"engine": engine},
        config={"serve": config.serve.model_dump(mode="json"), "name": config.name, "version": version},
        code_version=code_version("throughline.triton", extras=("triton",)),
    )
    with stage as run:
        if run.cached:
            return run.cached
        shutil.copy2(repository / config.name / "config.pbtxt", run.directory / "config.pbtxt")
        free = config.serve.model_copy(update={"host": LOOPBACK, "http_port": 0, "grpc_port": 0, "metrics_port": 0})
        folder = service.run_dir(store) / "check"
        folder.mkdir(exist_ok=True)
        started = time.monotonic()
        with TritonServer(repository, [config.name], free, run_dir=folder) as server:
            ready = time.monotonic() - started
            with TritonClient(server.grpc_url) as client:
                answer = client.generate(config.name, {"text_input": CHECK_PROMPT, "max_tokens": 8})
        return run.commit(
            metrics={
                "version": version,
                "seconds_to_first_token": ready,
                "completion_tokens": answer.completion_tokens,
            }
        )


def start(config: Config) -> None:
    """Runs the server until a signal; on one that runs already, switches to the version without a restart."""
    from throughline.triton.server import TritonServer, run_until_signal
    from throughline.triton.state import read_state

    state = read_state(service.run_dir(config.store()))
    if state is not None and state.supervised:
        switch(config, state)
        return
    names = [config.name]
    app.echo(f"serving {config.name} version {make(config)} from {config.paths.model_repository}")
    for name, number in make_beside(config).items():
        app.echo(f"serving {name} version {number} beside it")
        names.append(name)
    server = TritonServer(config.paths.model_repository, names, config.serve, run_dir=service.run_dir(config.store()))
    with server:
        app.echo(f"grpc     {server.grpc_url}")
        app.echo(f"http     http://{server.http_url}/v2/health/ready")
        app.echo(f"metrics  http://{server.metrics_url}/metrics")
        app.echo(f"log      {server.log_path}")
        app.echo("next     python -m recipes.serve   (in another terminal; Ctrl-C here stops the server)")
        run_until_signal(server)


def switch(config: Config, state: ServerState) -> None:
    """Serves another version on the running server.

    Raises:
        DeployError: If it serves another repository or model, is being started again, or the version does not load;
            what was served is served on.
    """
    from throughline.triton import switching
    from throughline.triton.client import TritonClient

    repository = config.paths.model_repository.resolve()
    if not state.running:
        raise DeployError(
            "the server died and is being started again",
            where=f"supervisor pid {state.supervisor_pid}",
            fix="wait a moment, then deploy again",
        )
    if state.repository != str(repository) or config.name not in state.models:
        raise DeployError(
            "the running server serves something else",
            where=state.repository,
            seen=f"models {', '.join(state.models)}",
            fix=f"stop it (action=stop), or deploy {config.name} from another store (paths.home=…)",
        )
    if config.embedding.target:
        raise DeployError(
            "a running server switches one model at a time",
            where="embedding.target",
            seen=config.embedding.target,
            fix=f"deploy it alone: name={config.embedding.name} target={config.embedding.target}",
        )
    url = state.grpc_url
    with TritonClient(url, timeout_seconds=config.serve.ready_timeout_seconds) as client:
        before = switching.running_version(client, repository, config.name)
        version = switching.switch(client, repository, config.name, lambda: make(config))
    what = "serves already" if version == before.number else f"serves instead of version {before.number}"
    app.echo(f"server   {url} (running, pid {state.pid})")
    app.echo(f"version  {version} {what}")
    if version != before.number:
        app.echo(f"next     python -m recipes.deploy version={before.number}   (back again, without a restart)")


def status(config: Config) -> None:
    """Prints the running server and the versions in the repository."""
    from throughline.contracts.report import Column, Table
    from throughline.reporting.terminal import print_table
    from throughline.triton import repository as repo
    from throughline.triton.state import read_state

    state = read_state(service.run_dir(config.store()))
    if state is None or not state.running:
        app.echo("no server is running from this folder")
    else:
        app.echo(f"server pid {state.pid}, grpc {state.grpc_url}, since {state.started}, log {state.log_path}")
    repository = config.paths.model_repository
    rows: list[list[object]] = []
    for name in repo.models(repository):
        served = _served(state, repository, name)
        for version in repo.versions(repository, name):
            mark = "served" if version.number == served else ""
            rows.append([name, version.number, mark, version.engine_digest[:12], str(version.engine_dir)])
    columns = [Column("model", align="left"), Column("version"), Column("", align="left")]
    columns += [Column("engine", align="left"), Column("folder", align="left")]
    print_table(Table("Model repository", columns, rows))


def _served(state: ServerState | None, repository: Path, name: str) -> int:
    """The version that runs, by the server's own word; without one the version that would be started."""
    from throughline.triton import repository as repo
    from throughline.triton import switching
    from throughline.triton.client import TritonClient

    runs = state is not None and state.running and state.repository == str(repository.resolve())
    if state is None or not runs or name not in state.models:
        return repo.served_version(repository, name).number
    with TritonClient(state.grpc_url) as client:
        return switching.running_version(client, repository, name).number


def stop(config: Config) -> None:
    """Asks the supervisor of the running server to end it.

    Raises:
        DeployError: If none is running.
    """
    from throughline.triton.state import clear_orphans, read_state

    folder = service.run_dir(config.store())
    state = read_state(folder)
    if state is None or not state.running:
        raise DeployError("no server is running", where=str(folder), fix="start one with `python -m recipes.deploy`")
    if state.supervised:
        supervisor = psutil.Process(state.supervisor_pid)
        os.kill(state.supervisor_pid, signal.SIGTERM)
        psutil.wait_procs([supervisor], timeout=config.serve.exit_timeout_seconds + 10)
    clear_orphans(folder)
    app.echo("stopped")


def _gpu_target(config: Config) -> GpuTarget | None:
    """The build job or TensorRT-LLM engine that is to be served, None if it is an engine of this machine's."""
    if config.action in ("status", "stop") or config.version or config.target.partition("/")[0] in _ALIASES:
        return None
    from recipes.deploy_gpu import find_target

    return find_target(config.store(), config.target)


def render_gpu(config: Config, target: GpuTarget) -> None:
    """Renders TensorRT-LLM's layouts for a GPU machine.

    Raises:
        DeployError: If it is to be started here.
    """
    from recipes import deploy_gpu
    from throughline.reporting.terminal import print_table

    if config.action == "start":
        raise DeployError(
            "an engine of TensorRT-LLM runs on a GPU machine",
            where="action=start",
            seen=config.target,
            fix="render what starts it there: action=render",
        )
    known = {item.digest for item in config.store().all("deployment")}
    rendered = deploy_gpu.make(config.store(), target, config.name, config.serve)
    print_table(deploy_gpu.table(rendered, config.serve))
    layout = next(path.parent for path in sorted(rendered.artifact.path.glob("*/start.sh")))
    app.made(
        rendered.artifact,
        again=rendered.artifact.digest in known,
        next_command=f"python -m recipes.lint path={layout / 'repository'}",
    )


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    target = _gpu_target(config)
    if target is not None:
        render_gpu(config, target)
    elif config.action == "render":
        for name, version in {config.name: make(config), **make_beside(config)}.items():
            app.echo(f"rendered {config.paths.model_repository / name}, version {version}")
        app.echo("next   python -m recipes.deploy")
    else:
        {"start": start, "status": status, "stop": stop}[config.action](config)


if __name__ == "__main__":
    main()
