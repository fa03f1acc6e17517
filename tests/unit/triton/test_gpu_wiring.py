"""The wiring check finds every fault that is put into the rendered ensemble, and nothing without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from throughline.contracts.serving import ServeSpec
from throughline.triton.gpu import ServedEngine
from throughline.triton.gpu.inflight_batcher import render
from throughline.triton.gpu.settings import settle
from throughline.triton.gpu.wiring import Wiring, check_ensemble

Models = dict[str, Any]


@pytest.fixture
def models() -> Models:
    spec, engine = ServeSpec(), ServedEngine("llama", 8)
    return render(engine, spec, settle(spec, engine), tokenizer_info=None)


def check(models: Models) -> Wiring:
    return check_ensemble(models["ensemble"], models)


def tensor(models: Models, model: str, kind: str, name: str) -> Any:
    return next(item for item in getattr(models[model], kind) if item.name == name)


def step(models: Models, number: int) -> Any:
    return models["ensemble"].ensemble_scheduling.step[number]


def test_the_rendered_ensemble_is_wired(models: Models) -> None:
    assert check(models) == Wiring((), ())


def drop_output(models: Models) -> None:
    del step(models, 0).output_map["INPUT_ID"]


def drop_step(models: Models) -> None:
    del models["ensemble"].ensemble_scheduling.step[2]


def drop_input(models: Models) -> None:
    del step(models, 2).input_map["SEQUENCE_LENGTH"]


def misname_input(models: Models) -> None:
    step(models, 1).input_map["runtime_topk"] = "top_k"


def misname_output(models: Models) -> None:
    step(models, 1).output_map["outputs"] = "_x"


def change_type(models: Models) -> None:
    tensor(models, "ensemble", "input", "temperature").data_type = 12  # TYPE_FP64


def change_dims(models: Models) -> None:
    tensor(models, "preprocessing", "output", "STOP_WORDS_IDS").dims[0] = 3


def change_rank(models: Models) -> None:
    tensor(models, "ensemble", "output", "output_log_probs").dims.append(1)


def may_be_missing(models: Models) -> None:
    tensor(models, "ensemble", "input", "max_tokens").optional = True


def made_twice(models: Models) -> None:
    step(models, 2).output_map["OUTPUT"] = "cum_log_probs"


def no_model(models: Models) -> None:
    del models["postprocessing"]


def small_batch(models: Models) -> None:
    models["preprocessing"].max_batch_size = 4


def unread_input(models: Models) -> None:
    del step(models, 1).input_map["temperature"]


def cycle(models: Models) -> None:
    step(models, 0).input_map["QUERY"] = "text_output"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_output, "input input_ids of tensorrt_llm reads _INPUT_ID, which nothing makes"),
        (drop_step, "output text_output of ensemble is made by no step"),
        (drop_input, "input SEQUENCE_LENGTH of postprocessing is required and gets nothing"),
        (misname_input, "tensorrt_llm has no input runtime_topk"),
        (misname_output, "tensorrt_llm has no output outputs"),
        (change_type, "input temperature of tensorrt_llm is TYPE_FP32, temperature of the client is TYPE_FP64"),
        (change_dims, "input stop_words_list of tensorrt_llm is [2, -1], _STOP_WORDS_IDS of preprocessing is [3, -1]"),
        (change_rank, "output output_log_probs of ensemble is [-1, -1, 1], that of tensorrt_llm is [-1, -1]"),
        (may_be_missing, "input REQUEST_OUTPUT_LEN of preprocessing is required, and max_tokens of the client may be"),
        (made_twice, "cum_log_probs is made by tensorrt_llm and by postprocessing"),
        (no_model, "step postprocessing: there is no such model"),
        (small_batch, "preprocessing takes batches of 4, ensemble of 8"),
        (unread_input, "input temperature of ensemble is read by no step"),
        (cycle, "steps wait for one another: preprocessing, tensorrt_llm, postprocessing"),
    ],
)
def test_a_fault_is_named(models: Models, change: Callable[[Models], None], words: str) -> None:
    change(models)
    assert any(words in fault for fault in check(models).faults), check(models).faults


def test_outputs_that_nothing_reads_are_said(models: Models) -> None:
    del models["ensemble"].output[-1]
    del step(models, 0).output_map["OUT_PAD_ID"]
    del step(models, 1).input_map["pad_id"]
    found = check(models)
    assert found.unused == ("preprocessing.OUT_PAD_ID", "tensorrt_llm.num_output_tokens")
    assert found.faults == ()
