"""Token ids of converted tokenizers against sentencepiece, transformers and the original's own pipeline."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.tiny import SPECIAL, save_tiny_tokenizer
from tests.unit.conversion.gguf_files import Contents, sizes, tokenizer_metadata
from throughline.conversion.gguf_file import open_gguf
from throughline.conversion.pretokenizers import NAMES
from throughline.conversion.tokenizer import build_tokenizer, read_vocabulary, write_tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.lists(
    st.sampled_from(
        ["bad ", "DOR", "don't", " I'LL", "3141592", " 7", "\n\n", "\r\n", "  ", "é", "温度", "🙂", "x_1", "://"]
    ),
    max_size=8,
).map("".join)
SAMPLES = (
    "In 2024, 31,415 nodes failed 7 times.",
    "def f(x):\n\treturn {'a': x ** 2}  # done\r\n\r\n",
    "Größe über alles — l'été, naïve 温度是多少 Привет мир مرحبا",
    "👩‍💻🙂 e\u0301 ﬁ\u00a0 ½ Ⅷ",
    "   leading and trailing   ",
    "",
)


def converted(metadata: dict[str, Any], folder: Path) -> Tokenizer:
    """The tokenizer of a file with this metadata, written and read again."""
    made = Contents("llama", {**sizes("llama"), **metadata})
    source = open_gguf(made.write(folder / "tokenizer.gguf"))
    vocabulary = read_vocabulary(source)
    write_tokenizer(build_tokenizer(source, vocabulary), vocabulary, folder, context_length=128)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def assert_equal(tokenizer: Tokenizer, ids: Callable[[str], list[int]], **options: Any) -> None:
    for text in SAMPLES:
        assert tokenizer.encode(text, **options).ids == ids(text), text

    @settings(max_examples=50)
    @given(TEXT)
    def check(text: str) -> None:
        assert tokenizer.encode(text, **options).ids == ids(text)

    check()


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "tekken"])
def test_patterns_cut_as_transformers_does(pre: str, tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = converted(tokenizer_metadata(tiny_tokenizer_dir, pre), tmp_path)
    oracle: Any = AutoTokenizer.from_pretrained(tmp_path, gguf_file="tokenizer.gguf").backend_tokenizer
    if pre == "qwen2":
        from transformers import Qwen2Tokenizer

        values = json.loads((tiny_tokenizer_dir / "tokenizer.json").read_text())["model"]
        original: Any = Qwen2Tokenizer(vocab=values["vocab"], merges=[tuple(pair) for pair in values["merges"]])
        oracle = original.backend_tokenizer
    assert_equal(tokenizer, lambda text: list(oracle.encode(text, add_special_tokens=False).ids))


@pytest.mark.parametrize("pre", ["smollm", "gpt-2"])
def test_smollm_and_gpt2_are_the_originals_pipeline(pre: str, tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    values = json.loads((tiny_tokenizer_dir / "tokenizer.json").read_text())["model"]
    original = Tokenizer(models.BPE(values["vocab"], [tuple(pair) for pair in values["merges"]]))
    # `pre_tokenizer` of HuggingFaceTB/SmolLM2-135M-Instruct and of openai-community/gpt2.
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
    original.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    original.decoder = decoders.ByteLevel()
    tokenizer = converted(tokenizer_metadata(tiny_tokenizer_dir, pre), tmp_path)
    assert_equal(tokenizer, lambda text: list(original.encode(text).ids))
    for text in SAMPLES:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("pre", NAMES)
def test_every_known_name_builds_and_gives_the_text_back(pre: str, tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    tokenizer = converted(tokenizer_metadata(tiny_tokenizer_dir, pre), tmp_path)
    text = "Größe 31415: don't\n\n  温度 🙂"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_special_and_added_tokens_keep_their_ids(tmp_path: Path) -> None:
    tiny = save_tiny_tokenizer(tmp_path / "tiny", tool_tags=True)
    metadata = tokenizer_metadata(tiny)
    metadata["tokenizer.ggml.token_type"][3:5] = [4, 4]
    # llama.cpp fills the vocabulary up to the embedding's rows with tokens that stand for nothing.
    metadata["tokenizer.ggml.tokens"] += ["[PAD2048]", "[PAD2049]"]
    metadata["tokenizer.ggml.token_type"] += [5, 5]
    tokenizer = converted(metadata, tmp_path)
    ids = [tokenizer.encode(f"a{token}b").ids[1:-1] for token in (*SPECIAL, "<tool_call>", "</tool_call>")]
    assert ids == [[0], [1], [2], [3], [4]]
    assert tokenizer.decode([1, 3]) == "<tool_call>"
    assert len(tokenizer.encode("[PAD2048]").ids) > 1
    assert tokenizer.get_vocab_size() == 2048
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert [entry["special"] for entry in config["added_tokens_decoder"].values()] == [True] * 3 + [False] * 2


def test_what_older_tools_read_is_there_and_what_breaks_them_is_not(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    from transformers import AutoTokenizer

    converted(tokenizer_metadata(tiny_tokenizer_dir), tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"backend", "is_local", "local_files_only"} & set(config)
    special = json.loads((tmp_path / "special_tokens_map.json").read_text())
    assert special == {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|im_end|>",
    }
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id, loaded.unk_token_id) == (1, 2, 2, 0)
    assert loaded.model_max_length == 128


def sentencepiece_model(**options: Any) -> Any:
    import sentencepiece

    texts = [f"{SAMPLES[index % len(SAMPLES)]} The node {index} lost its GPU {index * 7}." for index in range(300)]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        model_type="bpe",
        vocab_size=520,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        minloglevel=2,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_vocabularies_give_sentencepieces_ids(prefix: bool, tmp_path: Path) -> None:
    oracle = sentencepiece_model(add_dummy_prefix=prefix)
    numbers = range(oracle.get_piece_size())
    kinds = [
        2 if oracle.is_unknown(n) else 3 if oracle.is_control(n) else 6 if oracle.is_byte(n) else 1 for n in numbers
    ]
    tokenizer = converted(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [oracle.id_to_piece(n) for n in numbers],
            "tokenizer.ggml.scores": [oracle.get_score(n) for n in numbers],
            "tokenizer.ggml.token_type": kinds,
            "tokenizer.ggml.bos_token_id": oracle.bos_id(),
            "tokenizer.ggml.eos_token_id": oracle.eos_id(),
            "tokenizer.ggml.unknown_token_id": oracle.unk_id(),
            "tokenizer.ggml.add_space_prefix": prefix,
        },
        tmp_path,
    )
    # sentencepiece alone drops NUL and cuts at its own marker.
    plain = TEXT.map(lambda text: text.replace("\0", "").replace("▁", ""))

    @settings(max_examples=50)
    @given(plain)
    def check(text: str) -> None:
        assert tokenizer.encode(text, add_special_tokens=False).ids == oracle.encode(text)

    check()
    for text in SAMPLES:
        found = tokenizer.encode(text)
        assert found.ids == [oracle.bos_id(), *oracle.encode(text)]
        assert tokenizer.decode(found.ids) == text
