"""Session fixtures: a tiny tokenizer, a tiny random checkpoint, its float32 engine, and that engine on Triton."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from tests.collector import Collector, collecting
from tests.tiny import VOCAB_SIZE, save_tiny_tokenizer
from throughline.artifacts import ArtifactStore
from throughline.contracts.gateway import ModelRoute

# A loaded machine is no failure, and nothing is left in the working folder.
settings.register_profile("throughline", deadline=None, database=None)
settings.load_profile("throughline")

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class RunningTriton:
    """A live server on loopback: `engine_dir` under the name `model`, and an engine that embeds beside it."""

    http_port: int
    grpc_port: int
    metrics_port: int
    model: str
    engine_dir: Path
    embedding_model: str
    embedding_dir: Path

    def route(self, name: str) -> ModelRoute:
        """A gateway's route to `model`, which clients call `name`."""
        return ModelRoute(
            id=name,
            upstream=f"127.0.0.1:{self.grpc_port}",
            triton_model=self.model,
            engine_dir=self.engine_dir,
        )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """An artifact store of the test's own, whatever the environment says."""
    monkeypatch.delenv("THROUGHLINE_HOME", raising=False)
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny tokenizer in ChatML as a folder that transformers loads; 2,048 tokens, the first three special."""
    return save_tiny_tokenizer(tmp_path_factory.mktemp("tiny-tokenizer"))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A random two-layer Llama with the tiny tokenizer, float32, the same at every run."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(20)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=512,
        pad_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        # Wide enough that a random model does not only repeat one token.
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    LlamaForCausalLM(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    for name in TOKENIZER_FILES:
        if (tiny_tokenizer_dir / name).is_file():
            shutil.copyfile(tiny_tokenizer_dir / name, folder / name)
    (folder / "LICENSE").write_text("Nobody's weights: do with them what you like.\n")
    return folder


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The float32 engine of `tiny_checkpoint`; a context of 512 tokens, one thread."""
    from throughline import engines
    from throughline.contracts.engine import EngineSpec

    spec = EngineSpec(precision="f32", max_seq_len=512, kv_cache_bytes=32 * 2**20, num_threads=1)
    out_dir = tmp_path_factory.mktemp("engine") / "tiny-f32"
    engines.build(tiny_checkpoint, spec, out_dir)
    return out_dir


@pytest.fixture(scope="session")
def tiny_embedding_engine(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The float32 embedding engine of `tiny_checkpoint`: means of length 1, of which parts are vectors too."""
    from throughline import engines
    from throughline.contracts.embedding import EmbeddingSpec
    from throughline.contracts.engine import EngineSpec

    embedding = EmbeddingSpec(pooling="mean", matryoshka_dimensions=(16, 32))
    spec = EngineSpec(precision="f32", max_seq_len=256, max_batch_size=8, num_threads=1, embedding=embedding)
    out_dir = tmp_path_factory.mktemp("embedding-engine") / "tiny-embedding"
    engines.build(tiny_checkpoint, spec, out_dir)
    return out_dir


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """A collector of traces on loopback."""
    with collecting() as running:
        yield running


@pytest.fixture(scope="session")
def triton_server(
    tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path, tiny_embedding_engine: Path, collector: Collector
) -> Iterator[RunningTriton]:
    """The real Triton with `tiny_engine` as `lab` and `tiny_embedding_engine` beside it, started once.

    Gauges are fresh within 50 ms.
    """
    from throughline.contracts.serving import ServeSpec
    from throughline.contracts.tracing import TracingSettings
    from throughline.triton import repository
    from throughline.triton.server import TritonServer

    folder = tmp_path_factory.mktemp("triton")
    tracing = TracingSettings(endpoint=collector.endpoint)
    spec = ServeSpec(metrics_interval_ms=50, cancel_poll_interval_ms=10, tracing=tracing)
    repository.render(folder / "repository", "lab", tiny_engine, spec)
    repository.render(folder / "repository", "embedding", tiny_embedding_engine, spec)
    with TritonServer(folder / "repository", ["lab", "embedding"], spec, run_dir=folder / "run") as server:
        http, grpc, metrics = (
            int(url.rpartition(":")[2]) for url in (server.http_url, server.grpc_url, server.metrics_url)
        )
        yield RunningTriton(http, grpc, metrics, "lab", tiny_engine, "embedding", tiny_embedding_engine)
