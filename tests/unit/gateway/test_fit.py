"""A gateway whose route names another contract than its model speaks does not start, and says what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.gateway.fake_text_models import BLS, LLMAPI, OLD_BLS, FakeTextModels
from tests.unit.gateway.fake_triton import MODEL, FakeTriton
from throughline.contracts.engine import SamplingParams
from throughline.contracts.errors import GatewayError
from throughline.contracts.gateway import ContractName, GatewaySpec, ModelRoute
from throughline.contracts.serving import ServeSpec
from throughline.gateway import GatewayProcess
from throughline.gateway.fit import NEEDS, check_fit
from throughline.gateway.upstream import Ask, contract_of
from throughline.gateway.upstream.contract import ModelShape
from throughline.triton.gpu.llmapi_layout import render
from throughline.triton.model_config import parse_config, render_config
from throughline.triton.text import tensors

CONTRACTS: tuple[ContractName, ...] = ("throughline", "bls", "llmapi")


def spec_of(port: int, model: str, contract: ContractName, folder: Path = Path()) -> GatewaySpec:
    route = ModelRoute(
        id="lab", upstream=f"127.0.0.1:{port}", triton_model=model, engine_dir=folder, contract=contract, max_seq_len=64
    )
    return GatewaySpec(port=0, models=(route,))


@pytest.mark.parametrize("contract", CONTRACTS)
def test_needed_is_what_every_request_sends(contract: ContractName) -> None:
    """Greedy or sampled, with nothing that a client has to ask for."""
    spoken = contract_of(spec_of(1, "m", contract).models[0], len)
    sent: set[str] = set()
    for params in (SamplingParams(max_tokens=1), SamplingParams(temperature=0.5, top_k=3)):
        ask = Ask("x", [1], "x", params, stream=True)
        request = spoken.request("m", ask, ModelShape(batched=False, inputs=frozenset()))
        sent |= {tensor.name for tensor in request.inputs}
    # Our own engine is sent top_k where a request names it.
    assert NEEDS[contract].inputs == sent - ({"top_k"} if contract == "throughline" else set())


def test_what_we_render_has_what_its_contract_needs() -> None:
    engine, served_as_llmapi = (
        parse_config(text, where="config.pbtxt", directory_name="lab")
        for text in (
            render_config("lab", version=1, engine_dir=Path("/e"), spec=ServeSpec(layout=layout))
            for layout in ("inflight_batcher_llm", "llmapi")
        )
    )
    rendered: list[tuple[ContractName, Any, Any]] = [
        ("throughline", engine.input, engine.output),
        ("llmapi", served_as_llmapi.input, served_as_llmapi.output),
        ("llmapi", render(ServeSpec()).input, render(ServeSpec()).output),
        ("bls", tensors.TEXT_INPUTS, tensors.TEXT_OUTPUTS),
    ]
    for contract, inputs, outputs in rendered:
        assert NEEDS[contract].inputs <= {tensor.name for tensor in inputs}
        assert NEEDS[contract].outputs <= {tensor.name for tensor in outputs}


@pytest.mark.parametrize(("model", "contract"), [(BLS, "bls"), (OLD_BLS, "bls"), (LLMAPI, "llmapi")])
def test_what_fits_is_served(models: FakeTextModels, model: str, contract: ContractName) -> None:
    check_fit(spec_of(models.port, model, contract))


@pytest.mark.parametrize(
    ("model", "contract", "lacking", "fix"),
    [
        (BLS, "llmapi", r"input return_finish_reason, input sampling_param_exclude_input_from_output, .*", "bls"),
        (LLMAPI, "bls", r"input exclude_input_in_output, input max_tokens, input stream, input temperature, .*", "llm"),
        (BLS, "throughline", r"input input_ids, input return_perf_metrics, output completion_tokens, .*", "bls"),
    ],
)
def test_another_contract_is_refused_with_what_is_missing(
    models: FakeTextModels, model: str, contract: ContractName, lacking: str, fix: str
) -> None:
    with pytest.raises(GatewayError, match=rf"lab: {model} at .* seen: it lacks {lacking} — set contract={fix}"):
        check_fit(spec_of(models.port, model, contract))


def test_our_engine_model_is_told_from_the_others(triton: FakeTriton) -> None:
    check_fit(spec_of(triton.port, MODEL, "throughline"))
    with pytest.raises(GatewayError, match=r"lacks .*sampling_param_top_p.* — set contract=throughline"):
        check_fit(spec_of(triton.port, MODEL, "llmapi"))


def test_a_gateway_before_the_wrong_contract_does_not_start(models: FakeTextModels, engine_dir: Path) -> None:
    process = GatewayProcess(spec_of(models.port, BLS, "llmapi", engine_dir))
    with pytest.raises(GatewayError, match=r"(?s)exit code 2 .*does not speak the contract 'llmapi'"):
        process.start()


def test_a_server_that_is_away_is_waited_for(engine_dir: Path, tmp_path: Path) -> None:
    """It may come up later; /health/ready says whether it has."""
    log = tmp_path / "gateway.log"
    with GatewayProcess(spec_of(9, BLS, "bls", engine_dir), log_path=log) as process:
        assert process.url
        assert "its contract is not checked" in log.read_text()
