"""Every rule on a folder that breaks it and on one that keeps it; fixes, SARIF, the command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from throughline.contracts.errors import ConfigError
from throughline.contracts.linting import Finding
from throughline.linting import RULES, Target, lint
from throughline.linting.fixes import apply

ROOT = Path(__file__).resolve().parents[3]
HOPPER = Target(compute_capability=9.0, version="1.2.1", concurrency=64)
MODEL = "repository/tensorrt_llm/config.pbtxt"
BLS = "repository/tensorrt_llm_bls/config.pbtxt"
ENGINE = "engine/config.json"
YAML = "llmapi/tensorrt_llm/1/model.yaml"
CHECKPOINT = "checkpoint"

# rule, file, what stands in it, what is put there, text of the finding
TEXT_CASES = [
    ("placeholder", MODEL, '"1.0"', '"${gpu_weights_percent}"', "${gpu_weights_percent}"),
    (
        "placeholder",
        MODEL,
        "max_batch_size: 64",
        "max_batch_size: ${triton_max_batch_size}",
        "${triton_max_batch_size}",
    ),
    ("syntax", MODEL, "dynamic_batching {", "dynamic_batchin {", "dynamic_batchin"),
    ("decoupled", BLS, "decoupled: true", "decoupled: false", "tensorrt_llm: true, tensorrt_llm_bls: false"),
    ("decoupled", MODEL, "decoupled: true", "decoupled: false", "tensorrt_llm: false"),
    ("batching-strategy", MODEL, "inflight_fused_batching", "inflight_fused_batch", "inflight_fused_batch"),
    (
        "inflight-batching",
        ENGINE,
        '"remove_input_padding": true',
        '"remove_input_padding": false',
        "remove_input_padding",
    ),
    ("inflight-batching", ENGINE, '"PAGED"', '"CONTINUOUS"', "kv_cache_type=paged"),
    ("scheduler-policy", MODEL, "guaranteed_no_evict", "guaranteed_no_evicts", "guaranteed_no_evicts"),
    ("decoding-mode", MODEL, "top_k_top_p", "topk_topp", "topk_topp"),
    ("decoding-mode", MODEL, "top_k_top_p", "lookahead", "decoding_mode is lookahead"),
    ("paged-context-fmha", ENGINE, '"use_paged_context_fmha": true', '"use_paged_context_fmha": false', "is off"),
    ("weight-streaming", MODEL, 'string_value: "1.0"', 'string_value: "0.5"', "0.5"),
    ("guided-decoding", MODEL, '"/tokenizer.json"', '""', "xgrammar_tokenizer_info_path is not set"),
    ("beam-width", MODEL, 'string_value: "1"', 'string_value: "4"', "4, the engine has 1"),
    ("batch-size", MODEL, "max_batch_size: 64", "max_batch_size: 128", "128, the engine has 64"),
    ("instance-count", BLS, "count: 64", "count: 1", "1 for 64 requests"),
    ("lora-cache", MODEL, '"64"', '"16"', "16, max_lora_rank is 32"),
    ("lora-cache", ENGINE, '"lora_plugin": "auto"', '"lora_plugin": null', "no lora_plugin"),
    ("lora-plugin", ENGINE, '"lora_plugin": "auto"', '"lora_plugin": null', "max_lora_rank=32"),
    ("cross-kv-cache", MODEL, "gpu_weights_percent", "cross_kv_cache_fraction", "no encoder_model_path"),
    ("unknown-parameter", MODEL, "kv_cache_free_gpu_mem_fraction", "kv_cache_free_gpu_memory_fraction", "_memory_"),
    ("random-seed", BLS, '"seed"', '"random_seed"', "input random_seed"),
    ("ensemble-wiring", "repository/ensemble/config.pbtxt", '"INPUT_ID"', '"INPUT_IDS"', "no output INPUT_IDS"),
    ("ensemble-wiring", "repository/ensemble/config.pbtxt", '"postprocessing"', '"postproc"', "no model postproc"),
    ("device-ids", MODEL, '"0,1"', '"0"', "world size 2"),
    ("queue-size", MODEL, "max_queue_size: 100", "max_queue_size: 0", "no limit"),
    ("num-tokens", ENGINE, '"max_num_tokens": 8192', '"max_num_tokens": 32', "max_num_tokens=32, max_batch_size=64"),
    ("world-size", ENGINE, '"world_size": 2', '"world_size": 4', "world_size 4, 2 rank engines"),
    ("user-buffer", ENGINE, '"user_buffer": false', '"user_buffer": true', "without reduce_fusion"),
    ("fp8-context-fmha", ENGINE, '"kv_cache_quant_algo": "FP8"', '"kv_cache_quant_algo": null', "None"),
    ("architecture", ENGINE, '"quant_algo": "FP8"', '"quant_algo": "NVFP4"', "NVFP4 on compute capability 9.0"),
    ("engine-version", ENGINE, '"1.2.1"', '"1.1.0"', "engine 1.1.0, container 1.2.1"),
    ("kv-cache-disabled", ENGINE, '"PAGED"', '"DISABLED"', "DISABLED"),
    ("llm-key", YAML, "max_num_tokens", "max_num_token", "max_num_token"),
    ("llm-key", YAML, "guided_decoding_backend: xgrammar", "kv_cache_dtype: fp8", "kv_cache_dtype"),
    ("llm-key", YAML, "free_gpu_memory_fraction", "gpu_memory_fraction", "gpu_memory_fraction"),
    ("engine-flow-key", YAML, "guided_decoding_backend: xgrammar", "batching_type: INFLIGHT", "batching_type"),
    ("llmapi-decoupled", YAML, "decoupled: true", "decoupled: false", "false here, true in config.pbtxt"),
    ("llmapi-decoupled", "llmapi/tensorrt_llm/config.pbtxt", "max_batch_size: 8", "max_batch_size: 4", "8 here, 4 in"),
    ("llm-num-tokens", YAML, "max_num_tokens: 8192", "max_num_tokens: 32", "max_num_tokens=32"),
    ("cuda-graphs", YAML, "  max_batch_size: 64", "  max_batch_size: 128", "graphs of 128"),
    ("llm-scheduler", YAML, "MAX_UTILIZATION", "max_utilization", "max_utilization"),
    ("kv-cache-config", YAML, "dtype: fp8", "dtype: int8", "int8"),
    ("kv-cache-config", YAML, "0.9", "90", "90"),
    ("speculative-config", YAML, "max_matching_ngram_size: 2", "max_matching_ngram_size: 0", "max_matching_ngram_size"),
    ("llm-guided-decoding", YAML, "xgrammar", "outlines", "outlines"),
    ("llm-lora", YAML, "max_lora_rank: 16", "max_lora_rank: 128", "64, max_lora_rank is 128"),
    ("trust-remote-code", YAML, "guided_decoding_backend: xgrammar", "trust_remote_code: true", "true"),
    ("vocabulary", "checkpoint/tokenizer.json", '"id": 7', '"id": 9', "id 9, the embedding has 8 rows"),
    ("quant-config", "checkpoint/hf_quant_config.json", "FP8", "NVFP4", "NVFP4 there, FP8 in config.json"),
    ("quant-flow", "checkpoint/hf_quant_config.json", "FP8", "W8A8_SQ_PER_CHANNEL", "W8A8_SQ_PER_CHANNEL"),
    ("unscored", "checkpoint/quant_report.json", '"scored"', '"not scored"', "not scored"),
    ("chat-template", "checkpoint/tokenizer_config.json", "{{ messages }}", "", "none"),
    ("shards", "checkpoint/model.safetensors.index.json", "model-2.saf", "model-3.saf", "the file is missing"),
    ("shards", "checkpoint/model.safetensors.index.json", "lm_head.weight", "lm_head.bias", "e.g. lm_head.bias"),
]


@pytest.fixture
def folder(tmp_path: Path, engine: Path, repository: Path, llmapi: Path, checkpoint: Path) -> Path:
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old} is not in {path}"
    path.write_text(text.replace(old, new, 1))


def root_of(folder: Path, file: str) -> Path:
    """What is linted: the repository behind an engine's file, too."""
    top = file.split("/")[0]
    return folder / ("repository" if top == "engine" else top)


def matching(found: list[Finding], rule: str, text: str) -> list[Finding]:
    return [item for item in found if item.rule.id == rule and text in item.seen]


@pytest.mark.parametrize("kind", ["engine", "repository", "llmapi", "checkpoint"])
def test_what_has_no_fault_has_no_findings(folder: Path, kind: str) -> None:
    assert lint(folder / kind, HOPPER) == []
    assert lint(folder / kind) == []


@pytest.mark.parametrize(("rule", "file", "old", "new", "text"), TEXT_CASES)
def test_a_broken_rule_is_found_at_its_line(folder: Path, rule: str, file: str, old: str, new: str, text: str) -> None:
    change(folder / file, old, new)
    found = lint(root_of(folder, file), HOPPER)
    [finding, *_] = matching(found, rule, text)
    assert finding.cure
    lines = finding.path.read_text(errors="replace").splitlines() if finding.path.suffix != ".safetensors" else [""]
    assert 1 <= finding.line <= len(lines)
    if finding.path == folder / file and new in lines[finding.line - 1]:
        return
    # Where another file, another setting or an absence is at fault, it is at least the setting's own line.
    assert (
        finding.line == 1
        or finding.key.split(".")[-1] in lines[finding.line - 1]
        or "string_value" in lines[finding.line - 1]
    ), (finding, lines[finding.line - 1])


def test_every_rule_has_a_case() -> None:
    # The last three are about checkpoints that are not quantised: tests/unit/engines/test_bad_checkpoints.py.
    others = {"fp8-gemm-plugins", "tensors", "finite", "tokenizer"}
    assert {case[0] for case in TEXT_CASES} | others == set(RULES)
    assert all(rule.summary and rule.severity in ("error", "warning") for rule in RULES.values())


def test_the_page_lists_every_rule() -> None:
    page = (ROOT / "docs" / "lint.md").read_text().splitlines()
    rows = [line for line in page if line.startswith("| `")]
    assert rows == [f"| `{rule.id}` | {rule.severity} | {rule.summary} |" for rule in RULES.values()]


def test_rules_that_need_a_gpu(folder: Path) -> None:
    blackwell = lint(folder / "engine", Target(compute_capability=10.0))
    assert [item.rule.id for item in blackwell] == ["fp8-gemm-plugins"]
    ampere = lint(folder / "engine", Target(compute_capability=8.0))
    assert {item.rule.id for item in ampere} == {"architecture", "fp8-gemm-plugins"}
    assert matching(lint(folder / "checkpoint", Target(compute_capability=8.0)), "architecture", "FP8 on compute")


def test_options_that_name_an_unscored_checkpoint(folder: Path) -> None:
    change(folder / YAML, "model: ", f"model: {folder / 'checkpoint'}  # ")
    assert lint(folder / "llmapi") == []
    change(folder / "checkpoint/quant_report.json", '"scored"', '"not scored"')
    [finding] = lint(folder / "llmapi")
    assert finding.rule.id == "unscored" and "device=cuda" in finding.cure


def test_damaged_shards(folder: Path) -> None:
    path = folder / "checkpoint" / "model-1.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    [finding] = lint(folder / "checkpoint")
    assert finding.rule.id == "shards" and finding.path == path
    for shard in (folder / "checkpoint").glob("model*"):
        shard.unlink()
    assert matching(lint(folder / "checkpoint"), "shards", "no weights in safetensors")


FIXABLE = [
    ("decoupled", BLS, "decoupled: true", "decoupled: false"),
    ("scheduler-policy", MODEL, "guaranteed_no_evict", "guaranteed_no_evicts"),
    ("batching-strategy", MODEL, "inflight_fused_batching", "inflight_fused_batch"),
    ("llm-key", YAML, "max_num_tokens", "max_num_token"),
    ("llm-scheduler", YAML, "MAX_UTILIZATION", "max_utilization"),
]


@pytest.mark.parametrize(("rule", "file", "old", "new"), FIXABLE)
def test_a_certain_cure_is_written(folder: Path, rule: str, file: str, old: str, new: str) -> None:
    before = (folder / file).read_text()
    change(folder / file, old, new)
    found = lint(root_of(folder, file), HOPPER)
    edits = apply(found)
    assert len(edits) == 1
    assert (folder / file).read_text() == before
    assert lint(root_of(folder, file), HOPPER) == []
    assert not list((folder / file).parent.glob(".*"))


def test_a_cure_that_is_not_certain_is_not_written(folder: Path) -> None:
    change(folder / MODEL, "guaranteed_no_evict", "whatever")
    before = (folder / MODEL).read_text()
    found = lint(folder / "repository", HOPPER)
    assert [item.edit for item in found] == [None] and apply(found) == []
    assert (folder / MODEL).read_text() == before


def test_an_edit_of_a_line_that_changed_since_is_left_out(folder: Path) -> None:
    change(folder / MODEL, "guaranteed_no_evict", "guaranteed_no_evicts")
    found = lint(folder / "repository", HOPPER)
    change(folder / MODEL, "guaranteed_no_evicts", "max_utilization")
    assert apply(found) == []
    assert "max_utilization" in (folder / MODEL).read_text()


def test_what_is_nothing_of_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to lint here"):
        lint(tmp_path)
    with pytest.raises(ConfigError, match="nothing to lint here"):
        lint(tmp_path / "nowhere")


@pytest.mark.parametrize("file", [MODEL, ENGINE, YAML, "checkpoint/config.json", "checkpoint/hf_quant_config.json"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_ends_in_findings_not_in_a_traceback(folder: Path, file: str, data: st.DataObject) -> None:
    path = folder / file
    before = path.read_text()
    start = data.draw(st.integers(0, len(before)))
    end = data.draw(st.integers(start, len(before)))
    try:
        path.write_text(before[:start] + data.draw(st.text(max_size=8)) + before[end:])
        assert all(isinstance(item, Finding) for item in lint(root_of(folder, file), HOPPER))
    except ConfigError as error:
        assert "nothing to lint here" in str(error)
    finally:
        path.write_text(before)


@pytest.fixture
def run(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "recipes.lint", f"path={folder}/repository", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    return call


def test_the_command(folder: Path, run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run("gpu=h100-sxm", "version=1.2.1")
    assert done.returncode == 0 and f"checked  {len(RULES)} rules" in done.stdout
    change(folder / MODEL, "guaranteed_no_evict", "guaranteed_no_evicts")
    done = run()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "tensorrt_llm/config.pbtxt:" in done.stdout and "scheduler-policy" in done.stdout
    log = json.loads(run("format=sarif").stdout)
    [result] = log["runs"][0]["results"]
    assert log["version"] == "2.1.0" and result["ruleId"] == "scheduler-policy"
    assert result["ruleId"] in {rule["id"] for rule in log["runs"][0]["tool"]["driver"]["rules"]}
    region = result["fixes"][0]["artifactChanges"][0]["replacements"][0]["deletedRegion"]
    line = (folder / MODEL).read_text().splitlines()[region["startLine"] - 1]
    assert line[region["startColumn"] - 1 : region["endColumn"] - 1] == '"guaranteed_no_evicts"'
    [finding] = json.loads(run("format=json").stdout)
    assert finding["fixable"] and finding["key"] == "batch_scheduler_policy"
    done = run("fix=true")
    assert done.returncode == 0 and "fixed    " in done.stdout
