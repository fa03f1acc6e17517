"""Runs the OpenAI-compatible gateway until Ctrl-C, before the Triton that runs or one that it starts.

python -m recipes.serve
python -m recipes.serve gateway.port=9000 name=support-desk
python -m recipes.serve gateway.triton_url=gpu-1:8001 gateway.contract=bls tokenizer=/checkpoints/llama name=llama
python -m recipes.serve embedding.target=3f2a91      # with an engine for /v1/embeddings beside it
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from recipes import app, chat, references, service
from recipes.tuned import Tunable
from throughline.contracts.errors import ArtifactError, DeployError
from throughline.contracts.gateway import ContractName, ModelRoute
from throughline.contracts.serving import ServeSpec

if TYPE_CHECKING:
    from throughline.artifacts import Artifact, ArtifactStore
    from throughline.triton.state import ServerState

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


class Config(Tunable):
    """Settings of `recipes.serve`; `tokenizer` is the folder of one whose engine is not on this machine."""

    serve: ServeSpec
    gateway: Gateway = Gateway()
    target: str = "promoted"
    tokenizer: Path | None = None
    name: str = "lab"
    embedding: service.EmbeddingTarget = service.EmbeddingTarget()

    _names_differ = model_validator(mode="after")(service.names_differ)

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
        name: What clients call it.
        url: Triton's gRPC address.
        folder: The engine, or the checkpoint behind it.
        shown: What people are told of it.
        max_seq_len: Its context in tokens; None for what the folder says.
    """

    name: str
    url: str
    folder: Path
    shown: str
    max_seq_len: int | None = None

    def route(self, config: Config) -> ModelRoute:
        """Returns the gateway's route to it; the settings of one elsewhere are those of the model `name`."""
        settings = config.gateway
        if self.name != config.name:
            return ModelRoute(id=self.name, upstream=self.url, triton_model=self.name, engine_dir=self.folder)
        layout = _MODELS.get(settings.contract, self.name) if settings.triton_url else self.name
        return ModelRoute(
            id=self.name,
            upstream=self.url,
            triton_model=settings.triton_model or layout,
            engine_dir=self.folder,
            contract=settings.contract,
            add_special_tokens=settings.add_special_tokens,
            max_seq_len=settings.max_seq_len or self.max_seq_len,
        )


def upstreams(config: Config, stack: contextlib.ExitStack) -> list[Upstream]:
    """Returns the engines to stand before, that of `name` first; starts Triton if none runs and none is named.

    Raises:
        DeployError: If a server runs without the embedding engine that was asked for.
    """
    from throughline.triton.state import read_state

    store = config.store()
    embedding = config.embedding
    url = config.gateway.triton_url
    if url is not None:
        app.echo(f"Triton   {url} (run by others)")
        beside = embedding.engines(store, config.profile)
        return [_elsewhere(config, url, store), *(_of(name, url, engine) for name, engine in beside.items())]
    state = read_state(service.run_dir(store))
    if state is not None and state.running and config.name in state.models:
        if embedding.target and embedding.name not in state.models:
            raise DeployError(
                "the running server does not serve this embedding engine",
                where=f"embedding.name={embedding.name}",
                seen=f"models {', '.join(state.models)}",
                fix="stop it (python -m recipes.deploy action=stop) and deploy with embedding.target=… too",
            )
        app.echo(f"Triton   {state.grpc_url} (running, pid {state.pid})")
        return _running(config, state, store)
    engines = {config.name: references.engine(store, config.target, config.profile)}
    engines |= embedding.engines(store, config.profile)
    server = stack.enter_context(service.triton(store, engines, config.serve, config.paths.model_repository))
    app.echo(f"Triton   {server.grpc_url} (started, log {server.log_path})")
    return [_of(name, server.grpc_url, engine) for name, engine in engines.items()]


def _running(config: Config, state: ServerState, store: ArtifactStore) -> list[Upstream]:
    """Every model of the server that runs."""
    from throughline.triton.client import TritonClient
    from throughline.triton.switching import running_version

    names = [config.name, *(name for name in state.models if name != config.name)]
    with TritonClient(state.grpc_url) as client:
        digests = {name: running_version(client, Path(state.repository), name).engine_digest for name in names}
    return [_of(name, state.grpc_url, store.get(digest, "engine")) for name, digest in digests.items()]


def _of(name: str, url: str, engine: Artifact) -> Upstream:
    return Upstream(name, url, engine.path, engine.short)


def _elsewhere(config: Config, url: str, store: ArtifactStore) -> Upstream:
    """The engine behind a Triton that we did not start, as far as this machine knows it.

    Raises:
        ArtifactError: If nothing here says how its prompts are tokenised.
    """
    if config.tokenizer is not None:
        return Upstream(config.name, url, config.tokenizer, f"elsewhere, tokenizer {config.tokenizer}")
    if config.gateway.contract == "throughline":
        return _of(config.name, url, references.engine(store, config.target, config.profile))
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
    return Upstream(config.name, url, found.tokenizer.folder, f"elsewhere, {found.engine.name}", found.spec.max_seq_len)


def show(url: str, name: str, *, keys: bool, embedding: str = "") -> None:
    """Prints how to talk to the gateway, with `keys` one that asks for them; `embedding` is a model that embeds."""
    app.echo(f"gateway  {url}")
    app.echo(f"metrics  {url}/metrics")
    arguments = ([] if url == chat.ChatSpec().url else [f"chat.url={url}"]) + (["chat.api_key=$KEY"] if keys else [])
    own = f' ARGS="{" ".join(arguments)}"' if arguments else ""
    app.echo(f"next     make chat{own}   (in another terminal; Ctrl-C here stops serving)")
    app.echo(service.curl(url, name, "What is the capital of France?", lead="         ", keys=keys))
    if embedding:
        app.echo(service.curl_embedding(url, embedding, "The server has stopped.", lead="         ", keys=keys))
    if keys:
        app.echo("         KEY is what recipes.keys action=create has shown")


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    from throughline import gateway
    from throughline.reporting import console

    with contextlib.ExitStack() as stack:
        found = upstreams(config, stack)
        for each in found:
            app.echo(f"engine   {each.shown} as {each.name}")
        spec = config.gateway.spec([each.route(config) for each in found], config.log.format)
        keys = spec.keys.store is not None
        embedding = next((each.name for each in found if each.name == config.embedding.name), "")
        gateway.serve(
            spec,
            on_ready=lambda url: show(url, config.name, keys=keys, embedding=embedding),
            log_stream=console.err(),
        )


if __name__ == "__main__":
    main()
