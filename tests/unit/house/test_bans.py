"""What must not stand in shipped code: pickle, eval, unsafe torch.load, assert, trust_remote_code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted(path for folder in ("src", "recipes", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def faults(source: str) -> list[str]:
    """Lists banned constructs in Python source, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Assert):
            found.append(f"{line}: assert")
        elif isinstance(node, ast.Import):
            found += [f"{line}: {item.name}" for item in node.names if item.name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLES:
            found.append(f"{line}: {node.module}")
        elif isinstance(node, ast.Call):
            found += _call_faults(node, line)
    return found


def _call_faults(node: ast.Call, line: int) -> list[str]:
    name = ast.unparse(node.func)
    keywords = {item.arg: ast.unparse(item.value) for item in node.keywords}
    found = []
    if name in {"eval", "exec"}:
        found.append(f"{line}: {name}")
    if name == "torch.load" and keywords.get("weights_only") != "True":
        found.append(f"{line}: torch.load without weights_only=True")
    if keywords.get("trust_remote_code") == "True":
        found.append(f"{line}: trust_remote_code=True")
    return found


def test_there_is_code_to_check() -> None:
    assert len(SHIPPED) > 20


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_banned_construct(path: Path) -> None:
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "assert x",
        "import pickle",
        "from cloudpickle import dumps",
        "eval('1')",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "f(trust_remote_code=True)",
    ],
)
def test_the_check_finds(source: str) -> None:
    assert faults(source)
