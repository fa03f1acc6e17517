"""A gateway whose engine lies on another machine knows it from its tokenizer's folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.tiny import save_tiny_tokenizer
from tests.unit.gateway.fake_text_models import BLS, FakeTextModels
from throughline.contracts.errors import EngineError, GatewayError
from throughline.contracts.gateway import ContractName, GatewaySpec, ModelRoute
from throughline.gateway import GatewayProcess
from throughline.gateway.facts import load_facts

HF = {"vocab_size": 2048, "max_position_embeddings": 96}
TRTLLM = {
    "pretrained_config": {"vocab_size": 2048, "max_position_embeddings": 512},
    "build_config": {"max_seq_len": 64},
}
NESTED = {"text_config": {"vocab_size": 2048, "max_position_embeddings": 96}, "vision_config": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_tokenizer(tmp_path_factory.mktemp("checkpoint"))


def route(folder: Path, contract: ContractName = "bls", **values: Any) -> ModelRoute:
    return ModelRoute(id="llama", triton_model=BLS, engine_dir=folder, contract=contract, **values)


@pytest.mark.parametrize(
    ("config", "given", "context"),
    [(HF, None, 96), (HF, 80, 80), (TRTLLM, None, 64), (NESTED, None, 96), (None, 80, 80), ({}, 80, 80)],
)
def test_the_context_is_what_is_given_else_built_else_trained(
    folder: Path, tmp_path: Path, config: dict[str, Any] | None, given: int | None, context: int
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    facts = load_facts(route(tmp_path, max_seq_len=given))
    assert (facts.name, facts.max_seq_len, facts.vocab_size) == ("llama", context, 2048 if config else 0)


@pytest.mark.parametrize(("config", "seen"), [(None, "no such file"), ({"vocab_size": 9}, "no max_seq_len")])
def test_a_context_that_nothing_says_is_asked_for(tmp_path: Path, config: dict[str, Any] | None, seen: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(GatewayError, match=rf"context length .* seen: {seen}.*gateway\.max_seq_len"):
        load_facts(route(tmp_path))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(GatewayError, match=r"not there — .*/none"):
        load_facts(route(tmp_path / "none", max_seq_len=64))


@pytest.mark.parametrize("text", ["[]", "{"])
def test_a_config_that_is_no_object_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(GatewayError, match=r"config\.json"):
        load_facts(route(tmp_path, max_seq_len=64))


def test_our_own_contract_needs_the_engine(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HF))
    with pytest.raises(EngineError, match="no engine here"):
        load_facts(route(tmp_path, "throughline"))


def test_a_chat_with_an_engine_elsewhere(folder: Path, models: FakeTextModels) -> None:
    (folder / "config.json").write_text(json.dumps(HF))
    served = route(folder).model_copy(update={"upstream": f"127.0.0.1:{models.port}"})
    models.says("Hello", " there")
    with GatewayProcess(GatewaySpec(port=0, models=(served,))) as process:
        client = openai.OpenAI(base_url=f"{process.url}/v1", api_key="none", max_retries=0, timeout=20)
        [card] = client.models.list().data
        found = client.chat.completions.with_raw_response.create(
            model="llama", messages=[{"role": "user", "content": "Hi"}]
        )
    assert (card.id, card.model_dump()["max_model_len"]) == ("llama", 96)
    answer = found.parse()
    assert answer.choices[0].message.content == "Hello there"
    digest = found.headers["x-engine-digest"]
    assert len(digest) == 64 and answer.system_fingerprint == f"fp_{digest[:12]}"
