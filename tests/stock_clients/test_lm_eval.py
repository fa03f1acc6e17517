"""lm-eval's `local-chat-completions` on a local task whose right answers the raw engine gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunningTriton
from tests.stock_clients.conftest import RunClient
from throughline import engines
from throughline.contracts.engine import SamplingParams
from throughline.gateway import GatewayProcess

pytestmark = [pytest.mark.slow, pytest.mark.integration]

TASKS = Path(__file__).parent / "tasks"
TOKENS = 12
QUESTIONS = (
    "Which valve closes first when pump P-101A trips?",
    "The server has stopped after the driver update.",
    "Ticket 4821: the door of cabinet 7 does not lock.",
    "How many bars does the gauge of tank 3 show?",
    "Name the colour of the second wire.",
    "What is the code of a late sensor?",
    "Is the belt of line 2 worn?",
    "Who changed the filter last?",
)
WRONG = 3


def greedy(engine: Path) -> list[str]:
    """The raw engine's answers, by transformers' template and tokenizer."""
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(engine)
    runtime = engines.load(engine)
    answers = []
    for number, question in enumerate(QUESTIONS):
        chat = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        runtime.submit(str(number), prompt, SamplingParams(max_tokens=TOKENS))
        ids: list[int] = []
        while runtime.has_work():
            ids += [token for output in runtime.step() for token in output.token_ids]
        answers.append(str(tokenizer.decode(ids, skip_special_tokens=True)))
    runtime.close()
    return answers


def test_the_score_is_the_share_of_right_answers(
    gateway: GatewayProcess, triton_server: RunningTriton, run_client: RunClient, tmp_path: Path
) -> None:
    answers = greedy(triton_server.engine_dir)
    # Some targets are wrong, so that a score of all or nothing would be found out.
    targets = [f"not {text}" if number < WRONG else text for number, text in enumerate(answers)]
    rows = [{"question": question, "answer": target} for question, target in zip(QUESTIONS, targets, strict=True)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    url = f"{gateway.url}/v1/chat/completions"
    run_client(
        "lm-eval",
        *("lm_eval", "run", "--model", "local-chat-completions"),
        *("--model_args", f"model=lab,base_url={url},num_concurrent=4,max_retries=1"),
        *("--include_path", str(TASKS), "--tasks", "greedy", "--apply_chat_template"),
        *("--output_path", str(tmp_path / "out"), "--log_samples"),
        env={"HF_HUB_OFFLINE": "1"},
    )
    [path] = (tmp_path / "out").rglob("results_*.json")
    result = json.loads(path.read_text("utf-8"))["results"]["greedy"]
    assert result["exact_match,none"] == pytest.approx((len(QUESTIONS) - WRONG) / len(QUESTIONS))
    [path] = (tmp_path / "out").rglob("samples_greedy_*.jsonl")
    samples = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    found = {sample["doc"]["question"]: sample["filtered_resps"] for sample in samples}
    assert found == {question: [answer] for question, answer in zip(QUESTIONS, answers, strict=True)}
