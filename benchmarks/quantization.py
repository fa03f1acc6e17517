"""`throughline.quantization` against ModelOpt called directly, on a checkpoint with random weights.

python benchmarks/quantization.py --model smollm2-135m --formats fp8 int8_sq --repeats 5
python benchmarks/quantization.py --model llama-3.1-8b --formats fp8 int4_awq --device cuda --repeats 1
python benchmarks/quantization.py --formats fp8 int8_sq --repeats 5 --bare-dtype float32

Both load the checkpoint, calibrate on the same token ids, and export it; they take turns. Ours checks the sizes,
reports and copies the tokenizer besides. `--score` compares losses as well, which the bare tool does not do. ModelOpt's
examples compute in the checkpoint's bfloat16; where a processor does not, `--bare-dtype float32` gives both the same
arithmetic, and leaves what ours adds.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from results_file import command_line, spread, write

from throughline.contracts.quantization import QuantSpec
from throughline.quantization.record import Record

ROOT = Path(__file__).resolve().parents[1]


def checkpoint(name: str, folder: Path, device: str) -> Path:
    """Writes a checkpoint of that shape with random bfloat16 weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    values = json.loads((ROOT / "engines" / "models" / f"{name}.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def bare(source: Path, spec: QuantSpec, out: Path, calibration: list[list[int]], device: str, dtype: str) -> None:
    """ModelOpt as its examples call it; float32 is rounded to bfloat16 before it is exported."""
    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoModelForCausalLM

    from throughline.quantization.formats import configuration
    from throughline.quantization.model import to_16_bits

    model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype)).to(device).eval()

    def forward(quantised: Any) -> None:
        with torch.inference_mode():
            for ids in calibration:
                quantised(input_ids=torch.tensor([ids], device=device), use_cache=False, logits_to_keep=1)

    quantised = mtq.quantize(model, configuration(spec), forward)
    if dtype != "bfloat16":
        to_16_bits(quantised)
    with torch.inference_mode():
        export_hf_checkpoint(quantised, export_dir=out)


def ours(
    source: Path, spec: QuantSpec, out: Path, calibration: list[list[int]], device: str, held_out: list[Record]
) -> dict[str, Any]:
    """Returns what our own report says."""
    from throughline.quantization import quantize

    report = quantize(source, spec, out, calibration=calibration, held_out=held_out, device=device)
    return report.model_dump(mode="json")


@contextlib.contextmanager
def measured(device: str) -> Iterator[dict[str, float]]:
    """Fills in seconds, and on a GPU the most that was allocated."""
    import torch

    found: dict[str, float] = {}
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        # ModelOpt keeps what it made last.
        left = torch.cuda.memory_allocated()
    started = time.perf_counter()
    yield found
    found["seconds"] = time.perf_counter() - started
    if device == "cuda":
        found["peak_bytes"] = float(torch.cuda.max_memory_allocated() - left)


def main() -> None:
    """Measures, prints a line a run, and writes JSON."""
    parser = command_line(__doc__, "quantization")
    parser.add_argument("--model", default="smollm2-135m", help="a name of engines/models")
    parser.add_argument("--formats", nargs="+", default=["fp8"])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--records", type=int, default=32, help="calibration records")
    parser.add_argument("--length", type=int, default=512, help="tokens of each")
    parser.add_argument("--score", type=int, default=0, help="records to compare losses on")
    parser.add_argument("--bare-dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the bare tool")
    parser.add_argument("--no-bare", action="store_true", help="ours alone")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = checkpoint(arguments.model, folder / "base", arguments.device)
        vocab = json.loads((source / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        draw = random.Random(0)
        ids = lambda: [draw.randrange(vocab) for _ in range(arguments.length)]  # noqa: E731
        calibration = [ids() for _ in range(arguments.records)]
        held = [ids() for _ in range(arguments.score)]
        records = [Record(tuple(each), tuple(each)) for each in held]
        for repeat in range(arguments.repeats):
            for qformat in arguments.formats:
                spec = QuantSpec.model_validate({"qformat": qformat, "calib_max_seq_length": arguments.length})
                known = (source, spec, folder / "out", calibration, arguments.device)
                runs: dict[str, Callable[[], Any]] = {"bare": lambda known=known: bare(*known, arguments.bare_dtype)}
                runs["ours"] = lambda known=known: ours(*known, records)
                if arguments.no_bare:
                    del runs["bare"]
                # In turns, and not always the same one first.
                for who in list(runs) if repeat % 2 == 0 else reversed(runs):
                    with measured(arguments.device) as found:
                        report = runs[who]()
                    size = sum(path.stat().st_size for path in known[2].glob("*.safetensors"))
                    shutil.rmtree(known[2])
                    row = {"format": qformat, "who": who, "repeat": repeat, "exported_bytes": size, **found}
                    rows.append(row | ({"report": report} if report else {}))
                    peak = f", peak {row['peak_bytes'] / 1e9:.2f} GB" if "peak_bytes" in row else ""
                    print(f"{qformat} {who}: {row['seconds']:.1f} s{peak}, {size / 1e9:.2f} GB exported", flush=True)
                    if report:
                        print("    " + json.dumps({key: report[key] for key in ("status", "quant_algo", "seconds")}))
    ratios = {}
    for qformat in arguments.formats if not arguments.no_bare else ():
        times = {who: [r["seconds"] for r in rows if r["format"] == qformat and r["who"] == who] for who in runs}
        each = [mine / theirs for mine, theirs in zip(times["ours"], times["bare"], strict=True)]
        ratios[qformat] = spread(each)
        print(f"{qformat}: ours / bare {statistics.median(each):.3f} [{min(each):.3f}, {max(each):.3f}]")
    host = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{os.cpu_count()} cores"
    values = {"model": arguments.model, "device": host, "torch": torch.__version__, "ratios": ratios, "rows": rows}
    write(arguments.out, values)


if __name__ == "__main__":
    main()
