"""Runs the OpenAI-compatible gateway until Ctrl-C, before the Triton that runs or one that it starts.

python -m recipes.serve
python -m recipes.serve gateway.port=9000 name=support-desk
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from recipes import app, chat, references, service
from throughline.artifacts import Artifact
from throughline.contracts.serving import ServeSpec


class Config(app.RecipeConfig):
    """Settings of `recipes.serve`."""

    serve: ServeSpec
    gateway: service.GatewaySettings = service.GatewaySettings()
    target: str = "promoted"
    name: str = "lab"


def upstream(config: Config, stack: contextlib.ExitStack) -> tuple[str, Artifact]:
    """Returns the gRPC address that serves `name` and its engine; starts Triton if none runs."""
    from throughline.triton.client import TritonClient
    from throughline.triton.state import read_state
    from throughline.triton.switching import running_version

    store = config.store()
    state = read_state(service.run_dir(store))
    if state is not None and state.running and config.name in state.models:
        url = state.grpc_url
        with TritonClient(url) as client:
            digest = running_version(client, Path(state.repository), config.name).engine_digest
        app.echo(f"Triton   {url} (running, pid {state.pid})")
        return url, store.get(digest, "engine")
    engine = references.engine(store, config.target, config.profile)
    server = stack.enter_context(
        service.triton(store, engine, config.name, config.serve, config.paths.model_repository)
    )
    app.echo(f"Triton   {server.grpc_url} (started, log {server.log_path})")
    return server.grpc_url, engine


def show(url: str, name: str, *, keys: bool) -> None:
    """Prints how to talk to the gateway, with `keys` one that asks for them."""
    app.echo(f"gateway  {url}")
    app.echo(f"metrics  {url}/metrics")
    arguments = ([] if url == chat.ChatSpec().url else [f"chat.url={url}"]) + (["chat.api_key=$KEY"] if keys else [])
    own = f' ARGS="{" ".join(arguments)}"' if arguments else ""
    app.echo(f"next     make chat{own}   (in another terminal; Ctrl-C here stops serving)")
    app.echo(service.curl(url, name, "What is the capital of France?", lead="         ", keys=keys))
    if keys:
        app.echo("         KEY is what recipes.keys action=create has shown")


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    from throughline import gateway
    from throughline.reporting import console

    with contextlib.ExitStack() as stack:
        address, engine = upstream(config, stack)
        app.echo(f"engine   {engine.short}")
        spec = config.gateway.spec(config.name, address, engine.path, config.log.format)
        keys = spec.keys.store is not None
        gateway.serve(spec, on_ready=lambda url: show(url, config.name, keys=keys), log_stream=console.err())


if __name__ == "__main__":
    main()
