"""How a rendered layout is started: `start.sh` for the container, a systemd unit and a compose service around it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from throughline.contracts.serving import Layout, ServeSpec
from throughline.triton import tracing
from throughline.triton.gpu.engine import ServedEngine
from throughline.triton.gpu.inflight_batcher import ENGINE_MODEL
from throughline.triton.gpu.layouts import REPOSITORY
from throughline.triton.gpu.llmapi_layout import MODEL_FOLDER

START, COMPOSE = "start.sh", "compose.yaml"
BINARY = "/opt/tritonserver/bin/tritonserver"
# Triton's own defaults; a rendered command cannot take a free port.
_PORTS = {"http_port": 8000, "grpc_port": 8001, "metrics_port": 8002}
_HEAD = """#!/usr/bin/env bash
# Starts {name} ({layout}) inside {container}.
# Written by `python -m recipes.deploy action=render`; it has not run on a GPU.
set -euo pipefail
"""
_NEEDS = """for file in {files}; do
  if [[ ! -f "$file" ]]; then
    echo "missing: $file" >&2
    exit 2
  fi
done
"""
# The rendered folder stays as it is: NVIDIA's model joins a copy of it.
_JOIN = """REPOSITORY="$(mktemp -d)"
cp -r {repository}/. "$REPOSITORY"
cp {model}/*.py "$REPOSITORY/{name}/1/"
"""
_COMPOSE_HEAD = (
    "# docker compose up -d\n# Written by `python -m recipes.deploy action=render`; it has not run on a GPU.\n"
)
_UNIT = """# Written by `python -m recipes.deploy action=render`; it has not run on a GPU.
# cp {unit} /etc/systemd/system/ && systemctl daemon-reload && systemctl enable --now {unit}
[Unit]
Description={name} on Triton with TensorRT-LLM ({layout})
Requires=docker.service
After=docker.service network-online.target
Wants=network-online.target

[Service]
ExecStartPre=-/usr/bin/docker rm --force {name}
ExecStart={run}
ExecStop=/usr/bin/docker stop --time {stop} {name}
Restart=on-failure
RestartSec=5
TimeoutStartSec={start}
TimeoutStopSec={longest}

[Install]
WantedBy=multi-user.target
"""


def environment(engine: ServedEngine) -> dict[str, str]:
    """Returns the environment of the server's processes."""
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(engine.world_size))),
        # Nothing is fetched while serving.
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        # The repository is mounted read-only.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def server_command(layout: Layout, engine: ServedEngine, spec: ServeSpec, repository: str) -> list[str]:
    """Returns the words that start the server in its container.

    An engine of several GPUs runs a process for each rank, of which the first alone takes requests and loads the
    other models. `LLM()` starts the processes of its ranks itself.
    """
    if layout == "llmapi" or engine.world_size == 1:
        alone = _tritonserver(spec, repository, rank=0, leads=True)
        return alone if engine.world_size == 1 else ["mpirun", "--allow-run-as-root", "-n", "1", *alone]
    words = ["mpirun", "--allow-run-as-root"]
    for rank in range(engine.world_size):
        words += [":"] if rank else []
        words += ["-n", "1", *_tritonserver(spec, repository, rank=rank, leads=rank == 0)]
    return words


def write(folder: Path, name: str, layout: Layout, engine: ServedEngine, spec: ServeSpec) -> list[Path]:
    """Writes `start.sh`, `<name>.service` and `compose.yaml` beside a layout's repository.

    Returns:
        The files.
    """
    unit = f"{name}.service"
    texts = {
        START: start_script(name, layout, engine, spec),
        unit: systemd_unit(name, layout, engine, spec),
        COMPOSE: _COMPOSE_HEAD
        + yaml.safe_dump({"services": {name: compose_service(layout, engine, spec)}}, sort_keys=False),
    }
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    (folder / START).chmod(0o755)
    return [folder / file for file in texts]


def start_script(name: str, layout: Layout, engine: ServedEngine, spec: ServeSpec) -> str:
    """Returns the script that runs inside the container: environment, a look at what is mounted, the server."""
    gpu = spec.gpu
    repository = f"{gpu.deployment_dir}/{REPOSITORY}"
    text = _HEAD.format(name=name, layout=layout, container=gpu.container)
    text += "".join(f"export {key}={shlex.quote(value)}\n" for key, value in environment(engine).items())
    needed = [f"{gpu.checkpoint_dir}/tokenizer.json"]
    if layout == "llmapi":
        needed += [f"{gpu.checkpoint_dir}/config.json", f"{MODEL_FOLDER}/model.py"]
    else:
        needed += [f"{gpu.engine_dir}/rank{rank}.engine" for rank in range(engine.world_size)]
    text += _NEEDS.format(files=shlex.join(needed))
    if layout == "llmapi":
        text += _JOIN.format(repository=shlex.quote(repository), model=MODEL_FOLDER, name=ENGINE_MODEL)
        words = server_command(layout, engine, spec, "$REPOSITORY")
    else:
        words = server_command(layout, engine, spec, repository)
    return text + "exec " + " \\\n  ".join(map(_quoted, words)) + "\n"


def systemd_unit(name: str, layout: Layout, engine: ServedEngine, spec: ServeSpec) -> str:
    """Returns a unit that keeps the container running."""
    mounts = [word for path in _mounts(layout, spec) for word in ("--volume", f"{path}:{path}:ro")]
    gpus = ",".join(map(str, range(engine.world_size)))
    run = ["/usr/bin/docker", "run", "--rm", "--name", name, "--gpus", f'"device={gpus}"', "--network", "host"]
    run += ["--shm-size", "2g", "--ulimit", "memlock=-1", "--ulimit", "stack=67108864", *mounts, spec.gpu.container]
    run += ["bash", f"{spec.gpu.deployment_dir}/{START}"]
    stop = spec.exit_timeout_seconds + 5
    return _UNIT.format(
        name=name,
        unit=f"{name}.service",
        layout=layout,
        run=" ".join(f"'{word}'" if '"' in word else word for word in run),
        stop=stop,
        start=round(spec.ready_timeout_seconds),
        longest=stop + 10,
    )


def compose_service(layout: Layout, engine: ServedEngine, spec: ServeSpec) -> dict[str, Any]:
    """Returns the service of a compose file."""
    port = spec.http_port or _PORTS["http_port"]
    devices = {"driver": "nvidia", "count": engine.world_size, "capabilities": ["gpu"]}
    return {
        "image": spec.gpu.container,
        "command": ["bash", f"{spec.gpu.deployment_dir}/{START}"],
        # The server listens on loopback; the gateway runs on the same machine.
        "network_mode": "host",
        "shm_size": "2gb",
        "ulimits": {"memlock": -1, "stack": 67108864},
        "volumes": [f"{path}:{path}:ro" for path in _mounts(layout, spec)],
        "restart": "unless-stopped",
        "stop_grace_period": f"{spec.exit_timeout_seconds + 5}s",
        "healthcheck": {
            "test": ["CMD", "curl", "-fsS", f"http://127.0.0.1:{port}/v2/health/ready"],
            "interval": "10s",
            "timeout": "5s",
            "start_period": f"{round(spec.ready_timeout_seconds)}s",
        },
        "deploy": {"resources": {"reservations": {"devices": [devices]}}},
    }


def _mounts(layout: Layout, spec: ServeSpec) -> list[str]:
    gpu = spec.gpu
    paths = [gpu.deployment_dir, gpu.checkpoint_dir]
    if layout == "inflight_batcher_llm":
        paths.append(gpu.engine_dir)
        if gpu.xgrammar_tokenizer_info_path:
            paths.append(gpu.xgrammar_tokenizer_info_path)
    return paths


def _tritonserver(spec: ServeSpec, repository: str, *, rank: int, leads: bool) -> list[str]:
    words = [BINARY, f"--model-repository={repository}"]
    if leads:
        words += [f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")]
        words += [f"--{name.replace('_', '-')}={getattr(spec, name) or default}" for name, default in _PORTS.items()]
    else:
        words += ["--model-control-mode=explicit", f"--load-model={ENGINE_MODEL}"]
        words += ["--allow-http=false", "--allow-grpc=false", "--allow-metrics=false"]
    return [
        *words,
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={spec.exit_timeout_seconds}",
        "--log-format=ISO8601",
        # Processes of several ranks share the host's memory, and must not share names in it.
        f"--backend-config=python,shm-region-prefix-name=rank{rank}_",
        *(tracing.flags(spec.tracing) if leads else ()),
    ]


def _quoted(word: str) -> str:
    """A word for the shell, its variable left to be filled in."""
    return f'"{word}"' if "$" in word else shlex.quote(word)
