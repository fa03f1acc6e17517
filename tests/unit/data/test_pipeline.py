"""The data stage against the lab's oracle of planted dirt, and against a user's own records."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from throughline.contracts.data import DataSpec
from throughline.contracts.errors import CheckpointError, ConfigError, DataError
from throughline.data import DataReport, prepare
from throughline.data.dedup import jaccard, shingles, words
from throughline.lab import records


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> tuple[Path, Path, DataReport]:
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("dataset")
    counts = {"triage": 20, "grounded": 10, "disallowed": 5, "benign": 5}
    made = records.generate(raw, seed=3, train_records=1500, counts={"acceptance": counts, "shifted": counts})
    questions = {name: [path] for name, path in made.questions.items()}
    return raw, out, prepare(made.sources, tiny_tokenizer_dir, out, DataSpec(), questions=questions, seed=0)


def planted(prepared: tuple[Path, Path, DataReport]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((prepared[0] / "planted.json").read_text())
    return values


def test_nothing_is_lost(prepared: tuple[Path, Path, DataReport]) -> None:
    raw, out, report = prepared
    total = sum(
        path.read_bytes().count(b"\n") for path in raw.glob("*.jsonl") if path.stem not in {"acceptance", "shifted"}
    )
    assert report.lines == total
    kept = lines(out / "train.jsonl") + lines(out / "validation.jsonl")
    assert len(kept) + len(lines(out / "restricted/rejects.jsonl")) == total
    assert report.kept == len(kept) == report.train + report.validation


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("invalid_utf8", "invalid_utf8"),
        ("truncated_json", "invalid_json"),
        ("missing_field", "missing_field"),
        ("role_order", "role_order"),
        ("empty_output", "empty_output"),
        ("echoed_output", "echoed_output"),
    ],
)
def test_planted_damage_is_rejected_with_its_reason_and_place(
    prepared: tuple[Path, Path, DataReport], damage: str, reason: str
) -> None:
    wanted = planted(prepared)["damage"][damage]
    found = [item for item in lines(prepared[1] / "restricted/rejects.jsonl") if item["reason"] == reason]
    assert wanted
    assert len(found) == len(wanted)
    for item in found:
        source = (prepared[0] / item["file"]).read_bytes().split(b"\n")[item["line"] - 1]
        assert ("raw_base64" in item) or item["raw"].encode() == source
    if damage not in {"invalid_utf8", "truncated_json"}:
        assert {item["id"] for item in found} == set(wanted)


@pytest.mark.parametrize("damage", ["mojibake", "nul", "zero_width"])
def test_planted_encoding_faults_are_repaired(prepared: tuple[Path, Path, DataReport], damage: str) -> None:
    kept = {item["id"]: item for name in ("train", "validation") for item in lines(prepared[1] / f"{name}.jsonl")}
    rejected = {item["id"] for item in lines(prepared[1] / "restricted/rejects.jsonl")}
    for name in planted(prepared)["damage"][damage]:
        assert name in kept or name in rejected
        if name in kept:
            text = json.dumps(kept[name]["messages"], ensure_ascii=False)
            assert "\u200b" not in text
            assert "\\u0000" not in text
            assert "Ã" not in text


def test_planted_duplicates_leave_one(prepared: tuple[Path, Path, DataReport]) -> None:
    kept = {item["id"] for name in ("train", "validation") for item in lines(prepared[1] / f"{name}.jsonl")}
    oracle = planted(prepared)
    for pair in oracle["duplicates"]:
        assert len(kept & set(pair)) <= 1
    near = [pair for pair in oracle["near_duplicates"] if len(kept & set(pair)) == 2]
    # An opener of two words or a changed ending can fall below the threshold in a very short text.
    assert len(near) <= 0.1 * len(oracle["near_duplicates"])


def test_planted_personal_data_is_gone(prepared: tuple[Path, Path, DataReport]) -> None:
    kept = {
        item["id"]: json.dumps(item["messages"], ensure_ascii=False)
        for name in ("train", "validation")
        for item in lines(prepared[1] / f"{name}.jsonl")
    }
    seen: Counter[str] = Counter()
    for item in planted(prepared)["personal"]:
        if item["id"] in kept:
            seen[item["kind"]] += 1
            assert item["value"] not in kept[item["id"]], item
    assert set(seen) == {"email", "phone", "ip", "credit_card", "api_key"}


def test_no_group_is_on_both_sides(prepared: tuple[Path, Path, DataReport]) -> None:
    train, held = lines(prepared[1] / "train.jsonl"), lines(prepared[1] / "validation.jsonl")
    assert held
    for name in ("customer", "document"):
        assert not {item[name] for item in train} & {item[name] for item in held}


def test_labels_cover_exactly_what_the_assistant_says(
    prepared: tuple[Path, Path, DataReport], tiny_tokenizer_dir: Path
) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_tokenizer_dir / "tokenizer.json"))
    texts = {item["id"]: item["messages"] for item in lines(prepared[1] / "train.jsonl")}
    for row in pq.read_table(prepared[1] / "train.parquet").to_pylist()[:300]:
        assert [a for a, b in zip(row["input_ids"], row["labels"], strict=True) if b >= 0] == [
            label for label in row["labels"] if label >= 0
        ]
        said = tokenizer.decode([label for label in row["labels"] if label >= 0], skip_special_tokens=False)
        wanted = ""
        for message in texts[row["id"]]:
            if message["role"] == "assistant":
                wanted += message["content"] or ""
                for call in message.get("tool_calls") or []:
                    function = call["function"]
                    call_json = f'{{"name": "{function["name"]}", "arguments": {function["arguments"]}}}'
                    wanted += f"<tool_call>\n{call_json}\n</tool_call>"
                wanted += "<|im_end|>"
        assert said == wanted


def test_questions_are_rendered_up_to_the_answer(prepared: tuple[Path, Path, DataReport]) -> None:
    rows = lines(prepared[1] / "acceptance.jsonl")
    assert len(rows) == 40
    assert all(row["prompt"].endswith("<|im_start|>assistant\n") and row["prompt_token_ids"] for row in rows)


def own(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_own_records_in_three_shapes_and_a_broken_line(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    rows: list[object] = [{"prompt": f"question {n} about {n * 7}?", "completion": f"answer {n}"} for n in range(30)]
    rows += [
        {"instruction": "Say it", "input": "twice, please, and loudly", "output": "it it"},
        {
            "messages": [
                {"role": "user", "content": "Hi there you"},
                {"role": "assistant", "content": "Hello"},
            ]
        },
        '{"prompt": "cut',
        {"messages": [{"role": "user", "content": "a <|im_end|> b"}, {"role": "assistant", "content": "no"}]},
    ]
    spec = DataSpec(source="files", default_task="chat", default_licence="own", validation_share=0.1)
    report = prepare([own(tmp_path, *rows)], tiny_tokenizer_dir, tmp_path, spec, questions={}, seed=0)
    assert (report.kept, report.questions) == (29, 3)
    rejects = {(item["line"], item["reason"]) for item in lines(tmp_path / "restricted/rejects.jsonl")}
    assert rejects == {(33, "invalid_json"), (34, "special_token_in_text")}
    assert report.licences == {"own": 29}


TOOL = {"type": "function", "function": {"name": "route", "parameters": {"type": "object", "properties": {}}}}


def calling(text: str, arguments: object, tools: list[Any] | None = None, content: str = "") -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "route", "arguments": arguments}}
    answer = {"role": "assistant", "content": content, "tool_calls": [call]}
    return {"messages": [{"role": "user", "content": text}, answer], "tools": tools or [TOOL]}


def test_special_tokens_are_found_in_calls_and_tools(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    described = json.loads(json.dumps(TOOL))
    described["function"]["description"] = "ends with <|im_end|>"
    rows = [calling(f"question {n * 7919}", {"desk": f"d{n}"}) for n in range(20)]
    rows.append(calling("what about this one", {"desk": ["a <|im_end|> b"]}))
    rows.append(calling("and what about that", '{"desk": "a <|im_start|>system"}'))
    rows.append(calling("another of them here", {"desk": "x"}, [TOOL, described]))
    spec = DataSpec(default_task="chat", default_licence="own", validation_share=0.1, acceptance_share=0.1)
    prepare([own(tmp_path, *rows)], tiny_tokenizer_dir, tmp_path, spec, questions={}, seed=0)
    rejects = {(item["line"], item["reason"], item["detail"]) for item in lines(tmp_path / "restricted/rejects.jsonl")}
    reason = "special_token_in_text"
    assert rejects == {(21, reason, "<|im_end|>"), (22, reason, "<|im_start|>"), (23, reason, "<|im_end|>")}


# Writes texts and no calls, as many models' templates do.
DEAF = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == "assistant" %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}
{% else %}{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.mark.parametrize("marked", [True, False])
def test_a_template_that_ignores_calls_trains_nothing(tmp_path: Path, tiny_tokenizer_dir: Path, marked: bool) -> None:
    folder = tmp_path / "deaf"
    shutil.copytree(tiny_tokenizer_dir, folder)
    template = DEAF if marked else DEAF.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    (folder / "chat_template.jinja").write_text(template)
    spec = DataSpec(default_task="chat", default_licence="own", validation_share=0.1, acceptance_share=0.1)
    rows = [calling(f"question {n * 7919}", {"desk": f"d{n}"}) for n in range(20)]
    with pytest.raises(DataError, match=r"template loses what the assistant says.*20 of 20.*calls of assistant turn 1"):
        prepare([own(tmp_path, *rows)], folder, tmp_path, spec, questions={}, seed=0)
    # One of 150 records is left out; the others are kept.
    plain = [{"prompt": f"what is {n * 7919}?", "completion": f"it is {n}"} for n in range(149)]
    report = prepare([own(tmp_path, rows[0], *plain)], folder, tmp_path, spec, questions={}, seed=0)
    (item,) = lines(tmp_path / "restricted/rejects.jsonl")
    assert (item["line"], item["reason"]) == (1, "lost_in_template")
    assert report.kept + report.questions == 149


def test_a_template_that_cuts_a_text_is_caught(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    folder = tmp_path / "short"
    shutil.copytree(tiny_tokenizer_dir, folder)
    (folder / "chat_template.jinja").write_text(DEAF.replace("{{ m.content }}<", "{{ m.content[:20] }}<"))
    spec = DataSpec(default_task="chat", default_licence="own", validation_share=0.1, acceptance_share=0.1)
    rows = [{"prompt": f"{n * 7919}?", "completion": f"an answer of more than 20 letters, {n}"} for n in range(20)]
    with pytest.raises(DataError, match="the text of assistant turn 1"):
        prepare([own(tmp_path, *rows)], folder, tmp_path, spec, questions={}, seed=0)


def dated(n: int, customer: str, text: str, answer: str = "yes") -> dict[str, Any]:
    created = f"2026-03-{n:02d}T08:00:00{'Z' if n % 2 else '+00:00'}"
    return {"id": f"r{n}", "prompt": text, "completion": answer, "customer": customer, "created": created}


def test_without_an_acceptance_set_the_latest_groups_are_held_out(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    rows = [dated(n, f"c{n // 2}", f"my number {n * 7919} and mail a{n}@b.org") for n in range(1, 21)]
    # Asks what a held-out record asks, with another answer: not to be trained on.
    rows.append(
        dated(1, "c99", "my number 150461 and mail a19@b.org", "a quite different and longer answer") | {"id": "twin"}
    )
    spec = DataSpec(default_task="chat", default_licence="own", validation_share=0.2, acceptance_share=0.15)
    report = prepare([own(tmp_path, *rows)], tiny_tokenizer_dir, tmp_path, spec, questions={}, seed=0)
    questions = lines(tmp_path / "acceptance.jsonl")
    assert {row["id"] for row in questions} == {"r20", "r19", "r18"}
    assert questions[0]["expected"] == {"messages": [{"role": "assistant", "content": "yes"}]}
    assert [message["role"] for message in questions[0]["messages"]] == ["user"]
    assert not any("@" in row["prompt"] for row in questions)
    assert "latest ones first" in report.split_off and "3 of 21" in report.split_off
    assert [(item["id"], item["reason"]) for item in lines(tmp_path / "restricted/rejects.jsonl")] == [
        ("twin", "held_out_overlap")
    ]
    kept = {item["id"] for name in ("train", "validation") for item in lines(tmp_path / f"{name}.jsonl")}
    assert kept == {f"r{n}" for n in range(1, 18)}


def test_own_questions_come_in_several_files_and_either_form(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    records_file = own(tmp_path, *({"prompt": f"what is {n}?", "completion": f"{n}"} for n in range(20)))
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text(json.dumps({"prompt": "what is a horse?", "completion": "an animal"}) + "\n")
    asked = {"messages": [{"role": "user", "content": "and a cow?"}], "expected": {"messages": [{"role": "assistant"}]}}
    second.write_text(json.dumps(asked) + "\n")
    spec = DataSpec(default_task="chat", default_licence="own", validation_share=0.1)
    report = prepare(
        [records_file], tiny_tokenizer_dir, tmp_path, spec, questions={"acceptance": [first, second]}, seed=0
    )
    rows = lines(tmp_path / "acceptance.jsonl")
    assert (report.kept, report.split_off) == (20, "")
    assert [(row["id"], row["task"]) for row in rows] == [("first.jsonl:1", "chat"), ("second.jsonl:1", "chat")]
    assert rows[0]["expected"]["messages"] == [{"role": "assistant", "content": "an animal"}]
    first.write_text('{"id": "x", "prompt": "a", "completion": "b"}\n' * 2)
    with pytest.raises(DataError, match=r"first\.jsonl:2.*repeated_id: x"):
        prepare([records_file], tiny_tokenizer_dir, tmp_path, spec, questions={"acceptance": [first]}, seed=0)


def user_text(record: dict[str, Any]) -> frozenset[str]:
    return shingles(words(record["prompt"]))


def test_no_record_that_asks_a_held_out_question_stays(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    """A record nearer to another one than to the question, and the second of two with the question's text, stayed."""
    words_of_question = [f"w{n}" for n in range(60)]

    def asking(prefix: str, changed: int, answer: str) -> dict[str, Any]:
        text = " ".join([*words_of_question[: 60 - changed], *(f"{prefix}{n}" for n in range(changed))])
        return {"prompt": text, "completion": " ".join(f"{answer}{n}" for n in range(90))}

    question = asking("", 0, "a") | {"id": "asked"}
    other, near = asking("z", 7, "b"), asking("z", 5, "c")
    assert jaccard(user_text(other), user_text(question)) < 0.8 <= jaccard(user_text(near), user_text(question))
    assert jaccard(user_text(near), user_text(other)) > jaccard(user_text(near), user_text(question))
    same = [asking("", 0, "d"), asking("", 0, "e")]
    fillers = [{"prompt": f"what is {n * 7919}?", "completion": f"{n}"} for n in range(20)]
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps(question) + "\n")
    spec = DataSpec(default_task="chat", default_licence="own", validation_share=0.1)
    files = [own(tmp_path, other, near, *same, *fillers)]
    report = prepare(files, tiny_tokenizer_dir, tmp_path, spec, questions={"acceptance": [asked]}, seed=0)
    rejects = [(item["line"], item["reason"]) for item in lines(tmp_path / "restricted/rejects.jsonl")]
    assert rejects == [(2, "held_out_overlap"), (3, "held_out_overlap"), (4, "held_out_overlap")]
    assert report.overlap == 3


def test_no_record_shares_a_group_with_a_held_out_question(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    rows = [{"prompt": f"what is {n * 7919}?", "completion": f"{n}", "customer": f"c{n}"} for n in range(20)]
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"id": "q", "prompt": "how is it?", "completion": "fine", "customer": "c7"}) + "\n")
    spec = DataSpec(default_task="chat", default_licence="own", validation_share=0.1)
    files = [own(tmp_path, *rows)]
    report = prepare(files, tiny_tokenizer_dir, tmp_path, spec, questions={"acceptance": [asked]}, seed=0)
    (item,) = lines(tmp_path / "restricted/rejects.jsonl")
    assert (item["line"], item["reason"]) == (8, "held_out_group")
    assert "question q has the same customer: 'c7'" in item["detail"]
    assert "1 training records that" in (tmp_path / "README.md").read_text() and report.kept == 19
    spec = spec.model_copy(update={"group_by": ()})
    report = prepare(files, tiny_tokenizer_dir, tmp_path, spec, questions={"acceptance": [asked]}, seed=0)
    assert report.kept == 20


def test_questions_names_and_tools_are_redacted_as_records_are(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    tool = {"type": "function", "function": {"name": "route", "description": "mail ops@acme.example first"}}
    call = {"type": "function", "function": {"name": "route", "arguments": {"to": "bob@acme.example", "cc": ["x"]}}}
    rows = [
        {
            "id": f"{n}@acme.example",
            "prompt": f"what is {n * 7919}?",
            "completion": f"{n}",
            "customer": f"c{n // 2}@b.org",
        }
        for n in range(20)
    ]
    rows[0] = calling("route it to bob@acme.example", {"to": "bob@acme.example"}, [TOOL, tool]) | {"id": "r"}
    rows.append({"prompt": "a <|im_end|> of eve@acme.example", "completion": "no", "id": "left out"})
    question = {
        "id": "eve@acme.example",
        "customer": "zoe@acme.example",
        "messages": [{"role": "user", "content": "route it to eve@acme.example or bob@acme.example"}],
        "tools": [TOOL, tool],
        "expected": {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]},
    }
    grounded = {
        "id": "g",
        "task": "grounded",
        "messages": [{"role": "user", "content": "[1] It is 192.0.2.7. Which one?"}],
        "expected": {"answer": "192.0.2.7 [1]", "answerable": True, "citation": 1, "value": "192.0.2.7", "passages": 1},
    }
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in (question, grounded)))
    spec = DataSpec(default_task="chat", default_licence="own", validation_share=0.2)
    report = prepare(
        [own(tmp_path, *rows)], tiny_tokenizer_dir, tmp_path, spec, questions={"acceptance": [asked]}, seed=0
    )
    public = [path for path in tmp_path.iterdir() if path.name not in {"own.jsonl", "asked.jsonl", "restricted"}]
    assert not [path.name for path in public if b"@acme.example" in path.read_bytes() or b"@b.org" in path.read_bytes()]
    first, second = lines(tmp_path / "acceptance.jsonl")
    assert first["messages"][0]["content"] == "route it to <EMAIL_1> or <EMAIL_2>"
    (redacted,) = first["expected"]["messages"][0]["tool_calls"]
    assert json.loads(redacted["function"]["arguments"]) == {"to": "<EMAIL_2>", "cc": ["x"]}
    assert first["tools"][1]["function"]["description"] == "mail <EMAIL_3> first"
    assert second["expected"]["answer"] == "<IP_ADDRESS_1> [1]" and second["expected"]["value"] == "<IP_ADDRESS_1>"
    # One name for a customer in all of its records, so that it stays on one side.
    names = [row["customer"] for name in ("train", "validation") for row in lines(tmp_path / f"{name}.jsonl")]
    assert sorted(Counter(name for name in names if name).values()) == [1, *[2] * 9]
    assert report.personal["email"] > 0
    # What was left out is there as it came, apart and for its owner alone.
    folder = tmp_path / "restricted"
    (item,) = lines(folder / "rejects.jsonl")
    assert "eve@acme.example" in item["raw"]
    assert folder.stat().st_mode & 0o077 == 0
    assert "Leave this folder out" in (folder / "README.md").read_text()


def test_one_group_cannot_be_held_out_of_itself(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    rows = [dated(n, "same", f"my number {n * 7919}") for n in range(1, 21)]
    spec = DataSpec(default_task="chat", default_licence="own")
    with pytest.raises(DataError, match=r"acceptance set.*data\.acceptance=…"):
        prepare([own(tmp_path, *rows)], tiny_tokenizer_dir, tmp_path, spec, questions={}, seed=0)


def test_nothing_left_names_the_reasons(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    with pytest.raises(DataError, match=r"no record is left.*missing_field"):
        prepare([own(tmp_path, {"a": 1})], tiny_tokenizer_dir, tmp_path, DataSpec(), questions={}, seed=0)


def test_a_bad_question_file_names_its_line(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    path = own(tmp_path, {"messages": [{"role": "user", "content": "x"}]})
    with pytest.raises(DataError, match=r"own\.jsonl:1"):
        prepare([path], tiny_tokenizer_dir, tmp_path, DataSpec(), questions={"acceptance": [path]}, seed=0)


def test_missing_tokenizer_and_unknown_kind(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        prepare([own(tmp_path, {})], tmp_path, tmp_path, DataSpec(), questions={}, seed=0)
    with pytest.raises(ConfigError, match="did you mean 'email'"):
        prepare([own(tmp_path, {})], tiny_tokenizer_dir, tmp_path, DataSpec(pii=("emial",)), questions={}, seed=0)
