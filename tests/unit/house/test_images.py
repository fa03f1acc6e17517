"""The Dockerfiles and scripts in `docker/`: linted, pinned, and the gateway's packages really run the gateway."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tiny import write_engine_info
from tests.unit.house.deployment import DOCKER, ROOT, tool
from throughline import bootstrap
from throughline.contracts.gateway import GatewaySpec, ModelRoute
from throughline.contracts.tracing import GatewayTracing
from throughline.engines.tensorrt.commands import CONTAINER

DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
SCRIPTS = [*sorted(DOCKER.rglob("*.sh")), *sorted(DOCKER.rglob("*.sbatch")), ROOT / ".ci" / "run"]
LISTS = sorted(DOCKER.glob("*.packages"))
# Named by a package and not needed by what we use of it: tokenizers asks the hub only for downloads.
NOT_NEEDED = {"huggingface-hub"}
# The extras that grpc clients of Triton are installed with.
EXTRAS = {"tritonclient": "grpc"}


def listed(path: Path) -> set[str]:
    """The packages of a list."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {line for line in lines if line}


def closure(names: Iterable[str], leave_out: set[str]) -> set[str]:
    """The packages and all that they require here, by their installed metadata."""
    todo = [canonicalize_name(name) for name in names]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name in found or name in leave_out:
            continue
        found.add(name)
        for text in metadata.requires(name) or []:
            needs = Requirement(text)
            if needs.marker is None or needs.marker.evaluate({"extra": EXTRAS.get(name, "")}):
                todo.append(canonicalize_name(needs.name))
    return found


def copied(dockerfile: Path) -> list[Path]:
    """What a Dockerfile copies of our package."""
    text = dockerfile.read_text(encoding="utf-8")
    return [ROOT / word for word in re.findall(r"(?<= )src/throughline/\S+", text)]


def imported(folders: Iterable[Path]) -> set[str]:
    """The distributions that source imports anywhere, function bodies too."""
    names = set()
    for path in (path for item in folders for path in (item.rglob("*.py") if item.is_dir() else [item])):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {item.name for item in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {f"{node.module}.{item.name}" for item in node.names}
    ours = set(sys.stdlib_module_names) | {"throughline"}
    installed = metadata.packages_distributions()
    return {owner(name, sorted(set(installed[top]))) for name in names if (top := name.split(".")[0]) not in ours}


def owner(name: str, owners: list[str]) -> str:
    """Which of the distributions a module, or something in it, comes from; several share `opentelemetry`."""
    if len(owners) == 1:
        return owners[0]
    module = name.replace(".", "/")
    while module:
        wanted = {f"{module}.py", f"{module}/__init__.py"}
        for each in owners:
            if wanted & {file.as_posix() for file in metadata.distribution(each).files or []}:
                return each
        module = module.rpartition("/")[0]
    raise AssertionError(name)


def test_there_is_something_to_check() -> None:
    assert {path.name for path in DOCKERFILES} == {
        "gateway.Dockerfile",
        "laptop.Dockerfile",
        "serving-gpu.Dockerfile",
        "training.Dockerfile",
    }
    assert len(SCRIPTS) == 4 and len(LISTS) == 3


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    done = tool("hadolint", "--no-color", path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nCMD python\n")
    done = tool("hadolint", "--no-color", tmp_path / "Dockerfile")
    assert done.returncode == 1 and "DL3007" in done.stdout and "DL3025" in done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    done = tool("shellcheck", "--shell=bash", path)
    assert (done.returncode, done.stdout) == (0, "")
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_shellcheck_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "script.sh").write_text("#!/usr/bin/env bash\nrm -r $1\n")
    done = tool("shellcheck", tmp_path / "script.sh")
    assert done.returncode == 1 and "SC2086" in done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_every_base_is_pinned_and_the_head_says_how_to_build_and_run(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert re.search(r":\S*\d", base) and "latest" not in base, base
    head = text.split("\nFROM ")[0]
    assert f"docker build -f docker/{path.name} -t throughline/{path.stem}:" in head
    assert "docker run " in head
    assert "never built" in head.lower()
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", text, re.MULTILINE), "runs as root"
    assert re.search(r'^CMD \["', text, re.MULTILINE), "no command in exec form"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_not_ignored(path: Path) -> None:
    wanted = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in wanted if line.startswith("!")]
    assert wanted[1] == "*"
    for line in re.findall(r"^COPY (?!--from)(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source == "." or any(source == name or source.startswith(f"{name}/") for name in kept), source


def test_the_image_that_serves_is_the_one_that_jobs_build_in() -> None:
    assert f"\nFROM {CONTAINER}\n" in (DOCKER / "serving-gpu.Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.name)
def test_a_subset_is_the_lock_s_own_lines(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(DOCKER / "subset.py"), str(bootstrap.LOCK)]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
    found = {" ".join(pin.replace("\\", " ").split()) for pin in re.split(r"\n(?=\S)", done.stdout) if pin.strip()}
    assert found == {pin for pin in bootstrap.pins() if pin.split("==")[0] in listed(path)}
    assert len(found) == len(listed(path))
    (tmp_path / "wrong").write_text("orjsn\n")
    done = subprocess.run([*command, str(tmp_path / "wrong")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and "orjsn" in done.stderr


def test_a_list_s_packages_that_are_there_are_left_alone(tmp_path: Path) -> None:
    """With nothing missing nothing is installed; what is neither there nor locked is refused."""
    command = ["bash", str(DOCKER / "add_missing.sh"), str(bootstrap.LOCK), str(tmp_path / "list")]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    (tmp_path / "list").write_text("# a comment\nnumpy\nprometheus-client\npyyaml\n")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (tmp_path / "list").write_text("numpy\norjsn\n")
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2 and "orjsn" in done.stderr


def test_the_gateway_s_list_is_what_it_imports_and_no_more() -> None:
    used = imported(copied(DOCKER / "gateway.Dockerfile"))
    # Named to uvicorn as a word.
    assert closure(used | {"httptools"}, NOT_NEEDED) == listed(DOCKER / "gateway.packages")


def test_the_training_list_is_what_its_extras_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = [Requirement(text).name for text in [*project["dependencies"], *extras["train"], *extras["data"]]]
    assert closure(names, {"torch", "triton", "numpy"}) <= listed(DOCKER / "training.packages")


def test_the_gateway_runs_with_the_packages_of_its_image(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    """As in the image: what it copies of ours, the packages of the list, and no site-packages."""
    site = tmp_path / "site"
    (site / "throughline").mkdir(parents=True)
    for path in copied(DOCKER / "gateway.Dockerfile"):
        (site / "throughline" / path.name).symlink_to(path)
    for name in listed(DOCKER / "gateway.packages"):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if ".." not in file.parts}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    engine_dir = shutil.copytree(tiny_tokenizer_dir, tmp_path / "engine")
    write_engine_info(engine_dir, max_seq_len=256)
    route = ModelRoute(id="lab", upstream="127.0.0.1:1", triton_model="lab", engine_dir=engine_dir)
    spec = GatewaySpec(port=0, models=(route,), tracing=GatewayTracing(endpoint="http://127.0.0.1:1"))
    (tmp_path / "gateway.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-S", "-m", "throughline.gateway", "--spec", str(tmp_path / "gateway.json")]
    environment = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("ready ").strip()
            assert httpx.get(f"{url}/health").json() == {"status": "ok"}
            assert "vllm:num_requests_running" in httpx.get(f"{url}/metrics").text
            # Through the template, the tokenizer and gRPC, to a Triton that is not there.
            body = {"model": "lab", "messages": [{"role": "user", "content": "Hi"}]}
            assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=20).status_code == 503
        finally:
            process.terminate()
        assert process.wait(20) == 0
