"""The CPU engine against transformers and llama.cpp: throughput, latency, processor time and memory on one workload.

python benchmarks/cpu_engine.py --models smollm2-135m 1b --concurrency 1 8 32 --llama-python OTHER/bin/python

ours            `throughline.engines`: OpenVINO's continuous batching, in each of `--precisions`
generate        transformers' `generate`, all requests in one static batch
continuous      transformers' continuous batching
llama.cpp       llama-cpp-python's low-level API, a sequence for each request; prompts join the batches of running
                sequences, as in llama.cpp's server. It is none of our dependencies: `--llama-python` says which has it

All requests arrive at once, greedy, end-of-sequence ignored, prompts of random token ids; batches of no more than 512
tokens, caches sized for the workload. Each measurement has a process of its own that loads, warms up with up to eight
such requests, and measures once; candidates take turns in each round. Peak memory is the process's with mapped files.
Without `--checkpoint` weights are random, on which speed does not depend. What a candidate's tokens have in common with
those of `generate` tells whether it computes the same model.
The bound at concurrency 1 is the read bandwidth over the bytes of weights that a token needs, the KV cache not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# llama.cpp's child runs this file in an interpreter that has nothing of ours: other imports stand where they are used.
ROOT = Path(__file__).resolve().parents[1]
SHAPES = {"smollm2-135m": "smollm2-135m", "1b": "llama-3.2-1b", "smoke": "smollm2-135m"}
SMOKE = {"num_hidden_layers": 2, "intermediate_size": 256, "vocab_size": 2048}
BATCH_TOKENS = 512
MAX_SEQ_LEN = 2048
WARM_REQUESTS, WARM_TOKENS = 8, 4
# Q8_0 has a 16-bit scale for every 32 weights.
WEIGHT_BYTES = {"bf16": 2.0, "f16": 2.0, "bfloat16": 2.0, "int8": 1.0, "q8_0": 34 / 32, "f32": 4.0, "float32": 4.0}
# What a row holds: the table's column, its unit, and the factor to it.
METRICS = {
    "tokens_per_second": ("output", "tokens/s", 1.0),
    "time_to_first_token_p50": ("first token", "ms", 1e3),
    "inter_token_latency_p50": ("between tokens", "ms", 1e3),
    "inter_token_latency_p95": ("p95", "ms", 1e3),
    "cpu_seconds_per_token": ("CPU a token", "ms", 1e3),
    "peak_memory_bytes": ("peak memory", "MiB", 2.0**-20),
    "load_seconds": ("load", "s", 1.0),
    "decode_tokens_per_second": ("after the first", "tokens/s", 1.0),
}
Job = dict[str, Any]


class Served:
    """Tokens of each request and when they came."""

    def __init__(self, requests: int) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(requests)]
        self.times: list[list[float]] = [[] for _ in range(requests)]

    def add(self, request: int, tokens: Sequence[int]) -> None:
        """Notes new tokens of a request."""
        self.tokens[request] += tokens
        self.times[request] += [time.perf_counter()] * len(tokens)


Run = Callable[[list[list[int]], int], Served]


@contextlib.contextmanager
def ours(job: Job) -> Iterator[Run]:
    """The engine in `job["path"]`."""
    from throughline import engines
    from throughline.contracts.engine import EngineInfo, SamplingParams
    from throughline.engines.cpu.lint import TOKENS_PER_BLOCK, kv_block_bytes
    from throughline.engines.cpu.pipeline import machine_plan

    info, length = EngineInfo.read(Path(job["path"])), job["prompt_tokens"] + job["output_tokens"]
    blocks = job["concurrency"] * (math.ceil(length / TOKENS_PER_BLOCK) + 1)
    runtime = engines.load(
        Path(job["path"]),
        num_threads=job["threads"],
        max_batch_size=job["concurrency"],
        max_num_tokens=BATCH_TOKENS,
        max_seq_len=length,
        kv_cache_bytes=max(2**20, blocks * kv_block_bytes(info, machine_plan(info.spec).kv_cache_dtype)),
    )

    def run(prompts: list[list[int]], tokens: int) -> Served:
        served = Served(len(prompts))
        for number, prompt in enumerate(prompts):
            runtime.submit(str(number), prompt, SamplingParams(max_tokens=tokens, ignore_eos=True))
        while runtime.has_work():
            for output in runtime.step():
                served.add(int(output.request_id), output.token_ids)
        return served

    yield run
    runtime.close()


def transformers_model(job: Job) -> Any:
    """Loads the checkpoint in `job["path"]`."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(job["threads"])
    return AutoModelForCausalLM.from_pretrained(job["path"], dtype=getattr(torch, job["weights"])).eval()


@contextlib.contextmanager
def generate(job: Job) -> Iterator[Run]:
    """One static batch; a streamer sees every step's tokens."""
    import torch

    model = transformers_model(job)
    # None would be taken from the model's configuration.
    greedy = {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0}

    class Streamer:
        def __init__(self, served: Served) -> None:
            self._served, self._is_prompt = served, True

        def put(self, value: Any) -> None:
            for request, token in enumerate([] if self._is_prompt else value.tolist()):
                self._served.add(request, [token])
            self._is_prompt = False

        def end(self) -> None:
            """Nothing is left to do."""

    def run(prompts: list[list[int]], tokens: int) -> Served:
        served, ids = Served(len(prompts)), torch.tensor(prompts)
        mask = torch.ones_like(ids)
        model.generate(ids, attention_mask=mask, max_new_tokens=tokens, streamer=Streamer(served), **greedy)
        return served

    yield run


@contextlib.contextmanager
def continuous(job: Job) -> Iterator[Run]:
    """transformers' manager; its own sizes are made for a GPU's memory and would take most of the machine's."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    model, page, length = transformers_model(job), 32, job["prompt_tokens"] + job["output_tokens"]
    config = ContinuousBatchingConfig(
        page_size=page,
        num_blocks=job["concurrency"] * (math.ceil(length / page) + 1),
        max_batch_tokens=BATCH_TOKENS,
        max_requests_per_batch=job["concurrency"],
        # All requests fit, so that none need be held back.
        safety_margin=0.0,
    )
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
    manager = model.init_continuous_batching(generation_config=greedy, continuous_batching_config=config)
    manager.start()

    def run(prompts: list[list[int]], tokens: int) -> Served:
        served = Served(len(prompts))
        ids = [manager.add_request(each, max_new_tokens=tokens, record_timestamps=True) for each in prompts]
        for _ in prompts:
            while (output := manager.get_result(timeout=1)) is None:
                if not manager.is_running():
                    raise RuntimeError("transformers' generation thread ended")
            number = ids.index(output.request_id)
            served.tokens[number], served.times[number] = output.generated_tokens, output.timestamps
        return served

    try:
        yield run
    finally:
        manager.stop(block=True)


@contextlib.contextmanager
def llama(job: Job) -> Iterator[Run]:
    """llama.cpp: a batch has a token of each running sequence, and of prompts what else it can take."""
    import llama_cpp as api
    import numpy as np

    quiet = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(quiet, None)
    api.llama_backend_init()
    model = api.llama_model_load_from_file(os.fsencode(job["path"]), api.llama_model_default_params())
    params = api.llama_context_default_params()
    # Every sequence has its own part of the context, a multiple of 256 tokens.
    params.n_ctx = job["concurrency"] * 256 * math.ceil((job["prompt_tokens"] + job["output_tokens"]) / 256)
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_seq_max = job["concurrency"]
    params.n_threads = params.n_threads_batch = job["threads"]
    context = model and api.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError(f"llama.cpp cannot load {job['path']}")
    batch = api.llama_batch_init(BATCH_TOKENS, 0, 1)

    def put(token: int, position: int, sequence: int, is_last: bool) -> None:
        row = batch.n_tokens
        batch.token[row], batch.pos[row], batch.logits[row] = token, position, is_last
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
        batch.n_tokens += 1

    def step(prompts: list[list[int]], read: list[int], served: Served, tokens: int) -> dict[int, int]:
        """Computes a batch; returns its row of each sequence that has a new token."""
        batch.n_tokens, rows = 0, {}
        for number, (prompt, known) in enumerate(zip(prompts, served.tokens, strict=True)):
            if known and len(known) < tokens:
                rows[number] = batch.n_tokens
                put(known[-1], len(prompt) + len(known) - 1, number, True)
        for number, prompt in enumerate(prompts):
            for position in range(read[number], min(len(prompt), read[number] + BATCH_TOKENS - batch.n_tokens)):
                is_last = position + 1 == len(prompt)
                if is_last:
                    rows[number] = batch.n_tokens
                put(prompt[position], position, number, is_last)
                read[number] += 1
        if status := api.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode returned {status}")
        return rows

    def run(prompts: list[list[int]], tokens: int) -> Served:
        served, read = Served(len(prompts)), [0] * len(prompts)
        api.llama_memory_clear(api.llama_get_memory(context), True)
        while any(len(known) < tokens for known in served.tokens):
            for number, row in step(prompts, read, served, tokens).items():
                logits = np.ctypeslib.as_array(api.llama_get_logits_ith(context, row), (job["vocab_size"],))
                served.add(number, [int(logits.argmax())])
        return served

    yield run
    api.llama_batch_free(batch)
    api.llama_free(context)
    api.llama_model_free(model)


def measure(job: Job) -> Job:
    """Loads, warms up and measures one candidate."""

    def prompts(purpose: str) -> list[list[int]]:
        source = random.Random(purpose)
        requests = range(job["concurrency"])
        return [[source.randrange(3, job["vocab_size"]) for _ in range(job["prompt_tokens"])] for _ in requests]

    kinds = {"ours": ours, "generate": generate, "continuous": continuous, "llama": llama}
    with kinds[job["kind"]](job) as run:
        loaded = time.monotonic() - job["spawned"]
        # Other prompts than the measured ones, which a cache of prefixes would know.
        run(prompts("warm-up")[:WARM_REQUESTS], WARM_TOKENS)
        asked = prompts(f"round {job['round']}")
        cpu, started = time.process_time(), time.perf_counter()
        served = run(asked, job["output_tokens"])
        cpu = time.process_time() - cpu
    if {len(tokens) for tokens in served.tokens} != {job["output_tokens"]}:
        raise RuntimeError(f"requests ended after {sorted(map(len, served.tokens))} tokens")
    total = job["concurrency"] * job["output_tokens"]
    gaps = [after - before for times in served.times for before, after in itertools.pairwise(times)]
    first, end = min(times[0] for times in served.times), max(times[-1] for times in served.times)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return {
        "tokens_per_second": total / (end - started),
        "time_to_first_token_p50": statistics.median(times[0] for times in served.times) - started,
        "inter_token_latency_p50": statistics.median(gaps),
        "inter_token_latency_p95": statistics.quantiles(gaps, n=20, method="inclusive")[-1],
        "cpu_seconds_per_token": cpu / total,
        "peak_memory_bytes": int(status.partition("VmHWM:")[2].split()[0]) * 1024,
        "load_seconds": loaded,
        "decode_tokens_per_second": (total - job["concurrency"]) / (end - first),
        "tokens": served.tokens,
    }


def about_llama(job: Job) -> Job:
    """Returns llama.cpp's version and what it was compiled for."""
    import llama_cpp

    return {"llama_cpp_python": llama_cpp.__version__, "system": llama_cpp.llama_print_system_info().decode().strip()}


def bandwidth(job: Job) -> Job:
    """Measures how fast all threads together read memory: sums over 1 GiB."""
    import torch

    torch.set_num_threads(job["threads"])
    values, seconds = torch.ones(2**28), []
    for _ in range(10):
        started = time.perf_counter()
        values.sum()
        seconds.append(time.perf_counter() - started)
    return {"bytes_per_second": values.nbytes / min(seconds)}


def prepare(job: Job) -> Job:
    """Makes what is missing of a model's checkpoint, engines and GGUF files; returns its `config.json`."""
    folder = Path(job["folder"])
    checkpoint = folder / "checkpoint"
    if not (checkpoint / "tokenizer.json").is_file():
        random_checkpoint(job["shape"], checkpoint)
    config: Job = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    for precision in job["precisions"]:
        if not (folder / precision / "engine.json").is_file():
            from throughline import engines
            from throughline.contracts.engine import EngineSpec

            spec = EngineSpec(precision=precision, max_seq_len=MAX_SEQ_LEN, num_threads=job["threads"])
            engines.build(checkpoint, spec, folder / precision)
    for kind in job["gguf_types"]:
        if not (folder / f"{kind}.gguf").is_file():
            write_gguf(checkpoint, config, kind, folder / f"{kind}.gguf")
    return config


def random_checkpoint(shape: Job, folder: Path) -> None:
    """Writes a checkpoint of that shape: random bfloat16 weights, and a tokenizer of which only the size is right."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    # Wider than usual: the random model would repeat one token, which tells little.
    config = AutoConfig.for_model(**shape, initializer_range=1.6 / shape["hidden_size"] ** 0.5)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces += [f"<{number}>" for number in range(len(pieces), shape["vocab_size"])]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def write_gguf(checkpoint: Path, config: Job, kind: str, path: Path) -> None:
    """Writes a Llama for llama.cpp, without a tokenizer: token ids go in and come out."""
    import gguf

    from throughline.engines.cpu.model_config import read_decoder_config
    from throughline.engines.safetensors_reader import SafetensorsFolder

    model, weights = read_decoder_config(config, MAX_SEQ_LEN), SafetensorsFolder(checkpoint)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if model.architecture != "llama" or rope.get("rope_type", "default") != "default":
        raise ValueError("the GGUF writer knows Llama without RoPE scaling only")
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_block_count(model.num_hidden_layers)
    writer.add_context_length(model.max_position_embeddings)
    writer.add_embedding_length(model.hidden_size)
    writer.add_feed_forward_length(model.intermediate_size)
    writer.add_head_count(model.num_attention_heads)
    writer.add_head_count_kv(model.num_key_value_heads)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0))
    writer.add_layer_norm_rms_eps(model.rms_norm_eps)
    writer.add_vocab_size(model.vocab_size)
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.num_hidden_layers)
    heads = {"q_proj": model.num_attention_heads, "k_proj": model.num_key_value_heads}
    for name in weights:
        if name == "lm_head.weight" and model.tied:
            continue
        values = weights.f32(name)
        if count := heads.get(name.split(".")[-2]):
            # llama.cpp's RoPE turns neighbours, Hugging Face's the halves of a head.
            values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        stored = gguf.GGMLQuantizationType[kind.upper() if values.ndim > 1 else "F32"]
        writer.add_tensor(names.get_name(name, (".weight",)), gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(path)


def child(job: Job, python: Path | str = sys.executable) -> Job:
    """Runs a job in a process of its own; returns its result, or as `error` what it died of."""
    environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"]), "HF_HUB_OFFLINE": "1"}
    words = [python, __file__, "--child", json.dumps(job | {"spawned": time.monotonic()})]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]}
    result: Job = json.loads(done.stdout.splitlines()[-1])
    return result


def succeeded(found: Job) -> Job:
    """Returns a child's result; ends the program if it has none."""
    if "error" in found:
        raise SystemExit(found["error"])
    return found


def candidates(args: argparse.Namespace) -> dict[str, Job]:
    """Returns what is compared, by name; `file` is what it loads of the model's folder."""
    found: dict[str, Job] = {
        f"ours {each}": {"kind": "ours", "file": each, "weights": each} for each in args.precisions
    }
    for kind in ("generate", "continuous"):
        dtype = args.transformers_dtype
        found[f"{kind} {dtype}"] = {"kind": kind, "file": "checkpoint", "weights": dtype}
    for kind in args.gguf_types:
        found[f"llama.cpp {kind}"] = {"kind": "llama", "file": f"{kind}.gguf", "weights": kind}
    return found


def weights_read(config: Job) -> int:
    """Returns how many weights a token needs: all layers' and the head's; of the embedding it takes one row."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    rows = 2 * (heads + config["num_key_value_heads"]) * (config.get("head_dim") or hidden // heads)
    layer = hidden * (rows + 3 * config["intermediate_size"])
    return int(config["num_hidden_layers"] * layer + hidden * config["vocab_size"])


def same_tokens(tokens: list[list[int]], reference: list[list[int]]) -> float:
    """Returns the share of the reference's tokens that stand before a request's first difference."""
    from throughline.engines.golden import common_prefix

    return sum(map(common_prefix, tokens, reference)) / sum(map(len, reference))


def compare(args: argparse.Namespace, folder: Path) -> Job:
    """Runs all rounds; writes the result file after each of their parts."""
    from throughline.artifacts import describe_environment

    words = ["…" if Path(word).is_absolute() else word for word in sys.argv[1:]]
    result: Job = {
        "command": f"python benchmarks/cpu_engine.py {' '.join(words)}",
        "environment": describe_environment(),
    }
    if args.gguf_types:
        result["llama_cpp"] = succeeded(child(args.settings | {"kind": "about"}, args.llama_python))
    result |= args.settings | {"read_bytes_per_second": 0.0, "rows": []}
    configs = {model: prepared(model, args, folder / model) for model in args.models}
    names = list(candidates(args))
    for repeat in range(args.repeats):
        speed = succeeded(child(args.settings | {"kind": "bandwidth"}))["bytes_per_second"]
        result["read_bytes_per_second"] = max(speed, result["read_bytes_per_second"])
        # Each round begins with another candidate, so that none is always first on a warm or a hot machine.
        order = names[repeat % len(names) :] + names[: repeat % len(names)]
        for model in args.models:
            for concurrency in args.concurrency:
                cell = {"model": model, "concurrency": concurrency, "round": repeat + 1}
                rows = [cell | one(cell, name, args, folder / model, configs[model]) for name in order]
                reference = next((row.get("tokens") for row in rows if row["candidate"].startswith("generate")), None)
                for row in rows:
                    if (tokens := row.pop("tokens", None)) and reference:
                        row["same_tokens"] = same_tokens(tokens, reference)
                result["rows"] += rows
                result["summary"] = summary(result, args, configs)
                args.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return result


def prepared(model: str, args: argparse.Namespace, folder: Path) -> Job:
    """Makes what the candidates load; returns the model's `config.json`."""
    print(f"preparing {model}", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = wanted = folder.resolve() / "checkpoint"
    if args.checkpoint and model == "smollm2-135m":
        wanted = args.checkpoint.resolve()
        if not checkpoint.exists():
            checkpoint.symlink_to(wanted)
    if checkpoint.resolve() != wanted:
        raise SystemExit(f"{folder} was made from another checkpoint: give another --work")
    shape = json.loads((ROOT / "engines" / "models" / f"{SHAPES[model]}.json").read_text(encoding="utf-8"))
    shape |= SMOKE if model == "smoke" else {}
    return succeeded(child(args.settings | {"kind": "prepare", "folder": str(folder), "shape": shape}))


def one(cell: Job, name: str, args: argparse.Namespace, folder: Path, config: Job) -> Job:
    """Measures a candidate once; returns its row, with `error` instead of figures if it failed."""
    job = cell | args.settings | candidates(args)[name]
    job |= {"path": str(folder / job["file"]), "vocab_size": config["vocab_size"]}
    found = child(job, args.llama_python if job["kind"] == "llama" else sys.executable)
    figure = found.get("error") or f"{found['tokens_per_second']:.1f} tokens/s"
    where = f"round {cell['round']}  {cell['model']}  {cell['concurrency']} at once"
    print(f"{where}  {name:20} {figure}", file=sys.stderr, flush=True)
    return {"candidate": name, **found}


def summary(result: Job, args: argparse.Namespace, configs: dict[str, Job]) -> list[Job]:
    """Returns median, least and most over the rounds, for each model, concurrency and candidate."""
    weights = {name: job["weights"] for name, job in candidates(args).items()}
    groups: dict[tuple[str, int, str], dict[int, Job]] = {}
    for row in result["rows"]:
        if "error" not in row:
            groups.setdefault((row["model"], row["concurrency"], row["candidate"]), {})[row["round"]] = row
    found = []
    for (model, concurrency, name), rounds in groups.items():
        entry: Job = {"model": model, "concurrency": concurrency, "candidate": name}
        entry |= {key: spread([row[key] for row in rounds.values()]) for key in METRICS}
        for mine in (f"ours {precision}" for precision in args.precisions):
            others = groups.get((model, concurrency, mine), {})
            pairs = [(others[number], row) for number, row in rounds.items() if number in others]
            if pairs:
                entry[f"{mine} / this"] = spread([a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs])
        shares = [row["same_tokens"] for row in rounds.values() if "same_tokens" in row]
        bound = result["read_bytes_per_second"] / weights_read(configs[model]) / WEIGHT_BYTES[weights[name]]
        alone = concurrency == 1
        entry["same_tokens"] = statistics.mean(shares) if shares else None
        entry["bound_tokens_per_second"] = bound if alone else None
        entry["share_of_bound"] = entry["decode_tokens_per_second"]["median"] / bound if alone else None
        found.append(entry)
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Returns median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def report(result: Job, args: argparse.Namespace) -> None:
    """Prints a table for each model and concurrency."""
    from throughline.contracts.report import Column, Table
    from throughline.reporting.format import number
    from throughline.reporting.terminal import print_table

    ratios = [f"ours {precision} / this" for precision in args.precisions]
    columns = [Column("candidate", align="left"), *(Column(name, unit) for name, unit, _ in METRICS.values())]
    columns += [*map(Column, ratios), Column("same tokens", "%"), Column("bound", "tokens/s"), Column("of bound", "%")]
    for model, concurrency in dict.fromkeys((entry["model"], entry["concurrency"]) for entry in result["summary"]):
        rows: list[list[object]] = []
        for entry in result["summary"]:
            if (entry["model"], entry["concurrency"]) != (model, concurrency):
                continue
            figures = [number(entry[key]["median"] * scale) for key, (_, _, scale) in METRICS.items()]
            speed = entry["tokens_per_second"]
            figures[0] += f" [{number(speed['least'])}, {number(speed['most'])}]"
            spreads = [entry.get(name) for name in ratios]
            figures += [each and f"{each['median']:.2f} [{each['least']:.2f}, {each['most']:.2f}]" for each in spreads]
            same, share = (entry[key] and f"{100 * entry[key]:.0f}" for key in ("same_tokens", "share_of_bound"))
            rows.append([entry["candidate"], *figures, same, entry["bound_tokens_per_second"], share])
        note = f"median [least, most] of {args.repeats} rounds; prompts of {args.prompt_tokens} tokens, "
        note += f"{args.output_tokens} new ones, {args.threads} threads; same tokens: as `generate`, up to a difference"
        print_table(Table(f"{model}, {concurrency} at once", columns, rows, note=note))
    print(f"memory read at {result['read_bytes_per_second'] / 1e9:.1f} GB/s by {args.threads} threads")
    print(f"where  {args.out}")


def arguments() -> argparse.Namespace:
    """Reads the command line and settles what depends on the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", choices=list(SHAPES), default=["smollm2-135m", "1b"])
    add("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    add("--repeats", type=int, default=5, help="rounds")
    add("--prompt-tokens", type=int, default=120)
    add("--output-tokens", type=int, default=64)
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--precisions", nargs="+", choices=("f32", "bf16", "int8"), default=["bf16", "int8"], help="of ours")
    auto = "auto: bfloat16 where the processor computes in it, else float32, as our engine does"
    add("--transformers-dtype", choices=("auto", "bfloat16", "float32"), default="auto", help=auto)
    add("--llama-python", type=Path, help="a Python with llama-cpp-python; llama.cpp is left out without it")
    add("--gguf-types", nargs="+", choices=("bf16", "f16", "q8_0"), default=["f16", "q8_0"], help="of llama.cpp")
    add("--checkpoint", type=Path, help="Hugging Face folder of smollm2-135m; random weights without it")
    add("--work", type=Path, help="where checkpoints, engines and GGUF files are kept, and found by a later run")
    add("--out", type=Path, help="benchmarks/results/cpu_engine.json by default")
    add("--smoke", action="store_true", help="a tiny shape, one round: whether everything runs")
    args = parser.parse_args()
    if args.smoke:
        args.models, args.concurrency, args.repeats = ["smoke"], [1, 4], 1
        args.out = args.out or Path(tempfile.gettempdir()) / "cpu_engine_smoke.json"
    args.out = args.out or ROOT / "benchmarks" / "results" / "cpu_engine.json"
    if args.transformers_dtype == "auto":
        from throughline.engines.cpu.openvino_env import cpu_supports

        args.transformers_dtype = "bfloat16" if cpu_supports("BF16") else "float32"
    if not args.llama_python:
        print("llama.cpp is left out: no --llama-python", file=sys.stderr)
        args.gguf_types = []
    keys = ("threads", "prompt_tokens", "output_tokens", "precisions", "gguf_types")
    args.settings = {key: getattr(args, key) for key in keys}
    return args


def main() -> None:
    """Measures and reports; as a child, does one job and prints its result."""
    if sys.argv[1:2] == ["--child"]:
        job = json.loads(sys.argv[2])
        jobs = {"prepare": prepare, "bandwidth": bandwidth, "about": about_llama}
        print(json.dumps(jobs.get(job["kind"], measure)(job)))
        return
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        report(compare(args, args.work or Path(scratch)), args)


if __name__ == "__main__":
    main()
