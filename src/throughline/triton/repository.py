"""Triton's model repository on disk: immutable engine versions, one mutable `config.pbtxt` a model."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from throughline.artifacts.manifest import MANIFEST_NAME, scan_files
from throughline.contracts.embedding import EmbeddingInfo
from throughline.contracts.engine import EngineInfo
from throughline.contracts.errors import DeployError
from throughline.contracts.serving import ServeSpec
from throughline.contracts.storage import storage_errors
from throughline.triton.carried import carried_files, code_digest, write
from throughline.triton.embedding_config import LAYOUT, render_embedding_config
from throughline.triton.model_config import CONFIG_NAME, parse_config, render_config, to_text

POINTER_NAME = "version.json"
MODEL_SOURCE = Path(__file__).parent / "models" / "engine_model.py"
EMBEDDING_SOURCE = MODEL_SOURCE.with_name("embedding_model.py")
EMBEDDING_RUNTIME = "throughline.engines:load_embedding"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Version:
    """One immutable version of a model.

    Attributes:
        number: Triton's version number.
        engine_dir: Absolute folder of the engine that it serves.
        engine_digest: Digest of that engine.
        runtime: `module:function` that loads it.
        model_sha256: Digest of the `model.py` beside the pointer and of the code in its `lib`.
        created: ISO 8601 in UTC.
    """

    number: int
    engine_dir: str
    engine_digest: str
    runtime: str
    model_sha256: str
    created: str

    def same_content(self, other: Version) -> bool:
        """Returns whether both serve the same engine by the same code."""
        return (self.engine_dir, self.engine_digest, self.runtime, self.model_sha256) == (
            other.engine_dir,
            other.engine_digest,
            other.runtime,
            other.model_sha256,
        )


def render(repository: Path, name: str, engine_dir: Path, spec: ServeSpec, *, engine_digest: str | None = None) -> int:
    """Makes `repository` serve an engine under `name`; an engine that is there already adds no version.

    A new version is written to a temporary sibling and renamed; `config.pbtxt` is replaced last, so a
    killed run leaves what was served before.

    Args:
        repository: Model repository; made if absent.
        name: Served model name.
        engine_dir: Engine folder; holds `engine.json`.
        spec: Serving settings.
        engine_digest: Digest of the engine; by default its manifest's, else computed from its files.

    Returns:
        The number of the version that is served now.

    Raises:
        DeployError: If the name or the engine folder cannot be used, or the name serves engines that make tokens and
            this one makes vectors, or the other way round.
        StorageError: If the disk takes no more; what was served is served on.
    """
    check_name(name)
    engine_dir = engine_dir.resolve()
    if not (engine_dir / "engine.json").is_file():
        raise DeployError(
            "engine folder has no engine.json",
            where=str(engine_dir),
            fix="build one with `python -m recipes.build`",
        )
    model = repository / name
    embedding = _embedding(engine_dir)
    _check_kind(repository, name, embeds=embedding is not None)
    source, runtime = MODEL_SOURCE, spec.runtime
    if embedding is not None:
        source = EMBEDDING_SOURCE
        runtime = EMBEDDING_RUNTIME if runtime == ServeSpec.model_fields["runtime"].default else runtime
    code, carried = source.read_bytes(), carried_files(source, runtime)
    wanted = Version(
        number=0,
        engine_dir=str(engine_dir),
        engine_digest=engine_digest or digest_of(engine_dir),
        runtime=runtime,
        model_sha256=code_digest(code, carried),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with storage_errors(model):
        model.mkdir(parents=True, exist_ok=True)
        same = [version for version in versions(repository, name) if version.same_content(wanted)]
        number = same[-1].number if same else _add_version(model, wanted, code, carried)
        if embedding is None:
            config = render_config(name, version=number, engine_dir=engine_dir, spec=spec)
        else:
            config = render_embedding_config(
                name,
                version=number,
                engine_dir=engine_dir,
                spec=spec,
                dimensions=embedding.dimensions,
                max_batch_size=EngineInfo.read(engine_dir).spec.max_batch_size,
            )
        parse_config(config, where=str(model / CONFIG_NAME), directory_name=name)
        _replace(model / CONFIG_NAME, config)
    return number


def is_embedding(config: Any) -> bool:
    """Whether a `ModelConfig` message is of a model that makes vectors."""
    return "layout" in config.parameters and config.parameters["layout"].string_value == LAYOUT


def _embedding(engine_dir: Path) -> EmbeddingInfo | None:
    """What an engine's vectors are; None for one that makes tokens, whatever else its `engine.json` says."""
    try:
        values = json.loads((engine_dir / "engine.json").read_text("utf-8"))
    except ValueError:
        return None
    if not isinstance(values, dict) or values.get("embedding") is None:
        return None
    return EngineInfo.read(engine_dir).embedding


def _check_kind(repository: Path, name: str, *, embeds: bool) -> None:
    """Refuses an engine of the other kind under a name: a rollback would serve it with the wrong configuration."""
    if not (repository / name / CONFIG_NAME).is_file():
        return
    if is_embedding(read_config(repository, name)) != embeds:
        makes, other = ("vectors", "tokens") if embeds else ("tokens", "vectors")
        raise DeployError(
            f"model '{name}' serves engines that make {other}, and this one makes {makes}",
            where=str(repository / name),
            fix="give it a name of its own: name=…",
        )


def check_name(name: str) -> None:
    """Refuses what is no name of a folder, a model or a container.

    Raises:
        DeployError: Saying what is allowed.
    """
    if not _NAME.fullmatch(name):
        raise DeployError(
            "model name cannot be served",
            where="name",
            seen=repr(name),
            fix="use letters, digits, '.', '_' and '-', first a letter or digit",
        )


def versions(repository: Path, name: str) -> list[Version]:
    """Lists a model's complete versions, oldest first.

    Raises:
        DeployError: If a version's pointer cannot be read.
    """
    model = repository / name
    found = []
    for path in model.iterdir() if model.is_dir() else ():
        if path.name.isdecimal() and path.is_dir():
            found.append(_read_version(path))
    return sorted(found, key=lambda version: version.number)


def served_version(repository: Path, name: str) -> Version:
    """Returns the version that `config.pbtxt` selects.

    Raises:
        DeployError: If the model, its configuration or that version is missing or broken.
    """
    config = read_config(repository, name)
    numbers = list(config.version_policy.specific.versions)
    known = {version.number: version for version in versions(repository, name)}
    if len(numbers) != 1 or numbers[0] not in known:
        raise DeployError(
            "configuration selects no version that exists",
            where=str(repository / name / CONFIG_NAME),
            seen=f"versions {numbers}, present {sorted(known)}",
            fix="deploy again with `python -m recipes.deploy`",
        )
    return known[numbers[0]]


def select_version(repository: Path, name: str, number: int) -> Version:
    """Points `config.pbtxt` at another existing version, e.g. to roll back; settings stay.

    Raises:
        DeployError: If there is no such version.
    """
    known = {version.number: version for version in versions(repository, name)}
    if number not in known:
        raise DeployError(
            f"model '{name}' has no version {number}",
            where=str(repository / name),
            seen=f"versions {sorted(known)}",
            fix="choose one of them",
        )
    config = read_config(repository, name)
    del config.version_policy.specific.versions[:]
    config.version_policy.specific.versions.append(number)
    config.parameters["engine_dir"].string_value = known[number].engine_dir
    replace_config(repository, name, config)
    return known[number]


def read_config(repository: Path, name: str) -> Any:
    """Returns a model's checked `ModelConfig` message.

    Raises:
        DeployError: If it is missing or would not load.
    """
    path = repository / name / CONFIG_NAME
    if not path.is_file():
        raise DeployError(
            f"model '{name}' is not in the repository",
            where=str(repository),
            seen=f"models {models(repository)}",
            fix="deploy it with `python -m recipes.deploy`",
        )
    return parse_config(path.read_text("utf-8"), where=str(path), directory_name=name)


def replace_config(repository: Path, name: str, config: Any) -> None:
    """Writes a model's `ModelConfig` message in the place of the one that is there."""
    _replace(repository / name / CONFIG_NAME, to_text(config))


def models(repository: Path) -> list[str]:
    """Lists the models in a repository by name."""
    return sorted(path.parent.name for path in repository.glob(f"*/{CONFIG_NAME}"))


def digest_of(engine_dir: Path) -> str:
    """Returns the digest in an engine's manifest, else sha256 over its files' paths and contents."""
    manifest = engine_dir / MANIFEST_NAME
    if manifest.is_file():
        digest = json.loads(manifest.read_text("utf-8")).get("digest")
        if isinstance(digest, str) and digest:
            return digest
    total = hashlib.sha256()
    for entry in scan_files(engine_dir):
        total.update(f"{entry.path}\0{entry.sha256}\n".encode())
    return total.hexdigest()


def _add_version(model: Path, wanted: Version, code: bytes, carried: Mapping[str, bytes]) -> int:
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=model))
    try:
        pointer = {key: value for key, value in vars(wanted).items() if key != "number"}
        (staging / POINTER_NAME).write_text(json.dumps(pointer, indent=2) + "\n", "utf-8")
        (staging / "model.py").write_bytes(code)
        write(staging, carried)
        staging.chmod(0o755)
        number = max((int(p.name) for p in model.iterdir() if p.name.isdecimal()), default=0) + 1
        while True:
            try:
                staging.rename(model / str(number))
            except OSError:
                # Another deployment took the number between the look and the rename.
                if not (model / str(number)).exists():
                    raise
                number += 1
            else:
                return number
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _read_version(path: Path) -> Version:
    try:
        return Version(number=int(path.name), **json.loads((path / POINTER_NAME).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DeployError(
            "version pointer cannot be read",
            where=str(path / POINTER_NAME),
            seen=str(error),
            fix="remove the version folder and deploy again",
        ) from None


def _replace(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=".config-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
