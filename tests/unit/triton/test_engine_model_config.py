"""The rendered `config.pbtxt` is the golden one, and faults in an edited one are found without a server.

`THROUGHLINE_WRITE_GOLDEN=1 python -m pytest tests/unit/triton` writes the golden file again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from throughline.contracts.errors import DeployError
from throughline.contracts.serving import ServeSpec
from throughline.triton.embedding_config import render_embedding_config
from throughline.triton.model_config import HEADER, OUTPUTS, parse_config, render_config

GOLDEN = Path(__file__).parent / "golden" / "config.pbtxt"
EMBEDDING = GOLDEN.with_name("embedding.pbtxt")


@pytest.fixture
def text() -> str:
    return render_config("lab", version=3, engine_dir=Path("/engines/lab-int8"), spec=ServeSpec())


def test_the_rendered_config_is_the_golden_one(text: str) -> None:
    if os.environ.get("THROUGHLINE_WRITE_GOLDEN") == "1":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
    assert text.startswith(HEADER)


def test_the_embedding_model_s_config_is_the_golden_one() -> None:
    text = render_embedding_config(
        "embedding", version=2, engine_dir=Path("/engines/e5"), spec=ServeSpec(), dimensions=1024, max_batch_size=32
    )
    if os.environ.get("THROUGHLINE_WRITE_GOLDEN") == "1":
        EMBEDDING.write_text(text)
    assert text == EMBEDDING.read_text()
    config = parse_config(text, where="config.pbtxt", directory_name="embedding")
    assert not config.model_transaction_policy.decoupled
    assert config.dynamic_batching.default_queue_policy.max_queue_size == ServeSpec().max_active_requests


def test_the_config_reads_back(text: str) -> None:
    config = parse_config(text, where="config.pbtxt", directory_name="lab")
    assert config.model_transaction_policy.decoupled
    assert list(config.version_policy.specific.versions) == [3]
    assert all(tensor.optional for tensor in config.input)
    assert [tensor.name for tensor in config.output] == [name for name, _, _ in OUTPUTS]
    assert config.parameters["engine_dir"].string_value == "/engines/lab-int8"
    assert config.parameters["exclude_input_in_output"].string_value == "true"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("max_batch_size", "max_batchsize", 'no field named "max_batchsize"'),
        ("KIND_CPU", "KIND_TPU", "KIND_TPU"),
        ("TYPE_BOOL", "TYPE_BOOLEAN", "TYPE_BOOLEAN"),
        ("decoupled: true", "decoupled: maybe", "maybe"),
        ("decoupled: true", "decoupled: true } }", "}"),
    ],
)
def test_faults_of_the_schema_come_with_their_line(old: str, new: str, words: str, text: str) -> None:
    # Of several places the last is edited, so that the line is not the first by chance.
    text = text if old in text else text + f"{old}: 0\n"
    before, _, after = text.rpartition(old)
    line = before.count("\n") + 1
    with pytest.raises(DeployError, match="not valid protobuf text") as caught:
        parse_config(before + new + after, where="lab/config.pbtxt", directory_name="lab")
    assert caught.value.where.startswith(f"lab/config.pbtxt:{line}:")
    assert words in str(caught.value.seen)


@pytest.mark.parametrize(
    ("addition", "directory", "words"),
    [
        ("", "other", "name is 'lab' in directory 'other'"),
        ("max_batch_size: -1", "lab", "max_batch_size is -1"),
        ('input { name: "x" data_type: TYPE_INT32 }', "lab", "dims of 'x' are []"),
        ('input { name: "x" data_type: TYPE_INT32 dims: [0] }', "lab", "dims of 'x' are [0]"),
        ('input { name: "seed" data_type: TYPE_INT32 dims: [1] }', "lab", "2 inputs are called 'seed'"),
        ("instance_group { kind: KIND_GPU }", "lab", "KIND_GPU"),
        ("model_metrics { }", "lab", "model_metrics is unknown to Triton 2.51"),
        (
            "ensemble_scheduling { max_inflight_requests: 3 }",
            "lab",
            "ensemble_scheduling.max_inflight_requests is unknown",
        ),
    ],
)
def test_what_the_schema_allows_but_the_server_does_not(addition: str, directory: str, words: str, text: str) -> None:
    with pytest.raises(DeployError, match="would not load") as caught:
        parse_config(f"{text}\n{addition}\n", where="lab/config.pbtxt", directory_name=directory)
    assert words in str(caught.value.seen)


def test_all_faults_come_together() -> None:
    for backend, words in (("", "neither backend nor platform"), ("tensorrtllm", "ships the python backend only")):
        with pytest.raises(DeployError) as caught:
            parse_config(f'name: "a" max_batch_size: -1 backend: "{backend}"', where="x", directory_name="b")
        assert str(caught.value.seen).count(";") == 2
        assert words in str(caught.value.seen)
