"""Runs the OpenAI-compatible gateway until Ctrl-C, before the Triton that runs or one that it starts.

python -m recipes.serve
python -m recipes.serve gateway.port=9000 name=support-desk
python -m recipes.serve gateway.triton_url=gpu-1:8001 gateway.contract=bls tokenizer=/checkpoints/llama name=llama
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from recipes import app, chat, references, service
from throughline.contracts.errors import ArtifactError
from throughline.contracts.gateway import ContractName, ModelRoute
from throughline.contracts.serving import ServeSpec

if TYPE_CHECKING:
    from throughline.artifacts import Artifact, ArtifactStore

# Of the layouts of TensorRT-LLM; our engine model has the name that it is deployed under.
_MODELS: dict[ContractName, str] = {"bls": "tensorrt_llm_bls", "llmapi": "tensorrt_llm"}


class Gateway(service.GatewaySettings):
    """The gateway's settings, with whose engine it stands before.

    Attributes:
        triton_url: `host:port` of the gRPC endpoint of a Triton that others run; None uses the one that
            `recipes.deploy` runs, or starts one.
        contract: What the model there speaks; see `ModelRoute`.
        triton_model: Its name; empty for the one that the contract's layout has, and for `name` on a Triton of ours.
        add_special_tokens: See `ModelRoute`.
        max_seq_len: Prompt plus output tokens of one request; None for what engine, build job or checkpoint say.
    """

    triton_url: str | None = Field(default=None, pattern=r"^[^/\s]+:\d+$")
    contract: ContractName = "throughline"
    triton_model: str = ""
    add_special_tokens: bool | None = None
    max_seq_len: int | None = Field(default=None, ge=2)


class Config(app.RecipeConfig):
    """Settings of `recipes.serve`; `tokenizer` is the folder of one whose engine is not on this machine."""

    serve: ServeSpec
    gateway: Gateway = Gateway()
    target: str = "promoted"
    tokenizer: Path | None = None
    name: str = "lab"

    @model_validator(mode="after")
    def _a_tokenizer_is_of_an_engine_elsewhere(self) -> Self:
        if self.tokenizer is not None and self.gateway.triton_url is None:
            raise ValueError(
                "tokenizer=… is that of an engine elsewhere: name its Triton (gateway.triton_url=host:port), or leave "
                "it out, since an engine of this machine has its own"
            )
        if self.tokenizer is not None and self.gateway.contract == "throughline":
            raise ValueError(
                "our engine model takes token ids, and its tokenizer is the engine's: give target=<engine>, or say "
                "which contract of TensorRT-LLM the model speaks (gateway.contract=bls or llmapi)"
            )
        return self


@dataclass(frozen=True)
class Upstream:
    """An engine on Triton.

    Attributes:
        url: Triton's gRPC address.
        folder: The engine, or the checkpoint behind it.
        shown: What people are told of it.
        max_seq_len: Its context in tokens; None for what the folder says.
    """

    url: str
    folder: Path
    shown: str
    max_seq_len: int | None = None

    def route(self, config: Config) -> ModelRoute:
        """Returns the gateway's route to it."""
        settings = config.gateway
        layout = _MODELS.get(settings.contract, config.name) if settings.triton_url else config.name
        return ModelRoute(
            id=config.name,
            upstream=self.url,
            triton_model=settings.triton_model or layout,
            engine_dir=self.folder,
            contract=settings.contract,
            add_special_tokens=settings.add_special_tokens,
            max_seq_len=settings.max_seq_len or self.max_seq_len,
        )


def upstream(config: Config, stack: contextlib.ExitStack) -> Upstream:
    """Returns the engine that serves `name` and where; starts Triton if none runs and none is named."""
    from throughline.triton.client import TritonClient
    from throughline.triton.state import read_state
    from throughline.triton.switching import running_version

    store = config.store()
    if config.gateway.triton_url is not None:
        app.echo(f"Triton   {config.gateway.triton_url} (run by others)")
        return _elsewhere(config, config.gateway.triton_url, store)
    state = read_state(service.run_dir(store))
    if state is not None and state.running and config.name in state.models:
        url = state.grpc_url
        with TritonClient(url) as client:
            digest = running_version(client, Path(state.repository), config.name).engine_digest
        app.echo(f"Triton   {url} (running, pid {state.pid})")
        return _of(url, store.get(digest, "engine"))
    engine = references.engine(store, config.target, config.profile)
    server = stack.enter_context(
        service.triton(store, engine, config.name, config.serve, config.paths.model_repository)
    )
    app.echo(f"Triton   {server.grpc_url} (started, log {server.log_path})")
    return _of(server.grpc_url, engine)


def _of(url: str, engine: Artifact) -> Upstream:
    return Upstream(url, engine.path, engine.short)


def _elsewhere(config: Config, url: str, store: ArtifactStore) -> Upstream:
    """The engine behind a Triton that we did not start, as far as this machine knows it.

    Raises:
        ArtifactError: If nothing here says how its prompts are tokenised.
    """
    if config.tokenizer is not None:
        return Upstream(url, config.tokenizer, f"elsewhere, tokenizer {config.tokenizer}")
    if config.gateway.contract == "throughline":
        return _of(url, references.engine(store, config.target, config.profile))
    from recipes.deploy_gpu import deployed_target

    found = deployed_target(store, config.target)
    if found is None or found.spec is None or found.tokenizer is None:
        raise ArtifactError(
            "the tokenizer of the engine is not on this machine",
            where="target",
            seen=config.target,
            fix="name its folder (tokenizer=…), or the build job or the deployment (target=<digest>) whose checkpoint "
            "is in this store",
        )
    return Upstream(url, found.tokenizer.folder, f"elsewhere, {found.engine.name}", found.spec.max_seq_len)


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
        found = upstream(config, stack)
        app.echo(f"engine   {found.shown}")
        spec = config.gateway.spec(found.route(config), config.log.format)
        keys = spec.keys.store is not None
        gateway.serve(spec, on_ready=lambda url: show(url, config.name, keys=keys), log_stream=console.err())


if __name__ == "__main__":
    main()
