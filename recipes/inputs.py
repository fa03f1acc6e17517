"""What a recipe reads: the base checkpoint and artifacts named by the user."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from recipes.app import ModelSpec
from throughline.artifacts import Artifact, ArtifactStore, Line, Promotions, promoted_lines
from throughline.contracts.errors import ArtifactError, GateInconclusive, GateNoGo, ThroughlineError

_MAKERS = {
    "dataset": "data",
    "checkpoint": "train",
    "adapter": "train",
    "engine": "build",
    "evaluation": "evaluate",
}
_TOKENIZER = "tokenizer.json"
_RENDERING = (_TOKENIZER, "chat template", "special tokens")
_HASHED = {".safetensors", ".json", ".jinja"}


class HasModel(Protocol):
    """A recipe's config that names a base model."""

    @property
    def model(self) -> ModelSpec:
        """The base model."""

    def store(self) -> ArtifactStore:
        """The artifact store."""


def base_checkpoint(config: HasModel) -> Artifact:
    """Returns the base model's checkpoint artifact; converts the model if that was not done yet.

    Raises:
        CheckpointError: If the model is missing or cannot be used; says what to do.
    """
    from recipes import convert

    return convert.make(config)


def folder_digest(folder: Path) -> str:
    """Returns a digest over the weights, configs and templates of a checkpoint folder."""
    stamps = tuple(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
        if path.suffix in _HASHED
    )
    return _digest(folder, stamps)


@functools.cache
def _digest(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    state = hashlib.sha256()
    for name, _, _ in stamps:
        state.update(name.encode() + b"\0")
        with (folder / name).open("rb") as handle:
            state.update(hashlib.file_digest(handle, "sha256").digest())
    return state.hexdigest()


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def rendering(folder: Path) -> dict[str, str]:
    """Returns the digests of what turns a conversation into token ids, wherever a checkpoint or engine keeps it."""
    from throughline.conversion.folder import template_of

    template, special = template_of(folder)
    texts = {"chat template": template, "special tokens": json.dumps(special, sort_keys=True)}
    found = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    return found | ({_TOKENIZER: sha256(folder / _TOKENIZER)} if (folder / _TOKENIZER).is_file() else {})


def check_rendering(
    dataset: Artifact,
    folder: Path,
    *,
    names: Sequence[str] = _RENDERING,
    fix: str = "run `python -m recipes.data` with this model, or name its dataset=…",
) -> None:
    """Refuses a dataset whose token ids are another model's.

    Args:
        dataset: The rendered records.
        folder: A checkpoint or an engine.
        names: What has to be the same: the tokenizer, the chat template, the special tokens.
        fix: What to do about it.

    Raises:
        ArtifactError: If one differs.
    """
    wanted, found = rendering(folder), dataset.manifest.config["tokenizer"]
    differing = [name for name in names if wanted.get(name) != found.get(name)]
    if differing:
        raise ArtifactError(
            "dataset was rendered for another model",
            where=f"dataset={dataset.digest[:12]}",
            seen=f"another {' and '.join(differing)} than in {folder}",
            fix=fix,
        )


def artifact(store: ArtifactStore, kind: str, reference: str, *, key: str) -> Artifact:
    """Returns the artifact that a config value names; `latest` is the newest of its kind.

    The latest checkpoint is the newest tuned one: base models are checkpoints too, and converted on the way.

    Raises:
        ArtifactError: If there is none; names the recipe that makes it.
    """
    if reference != "latest":
        return store.get(reference, kind)
    found = [item for item in store.all(kind) if kind != "checkpoint" or item.manifest.inputs]
    if found:
        return found[-1]
    raise ArtifactError(
        f"there is no {kind} yet", where=key, seen=reference, fix=f"run `python -m recipes.{_MAKERS[kind]}`"
    )


def engine(store: ArtifactStore, reference: str, profile: str, *, key: str = "target") -> Artifact:
    """Returns the engine that a config value names.

    Args:
        store: Where it lies.
        reference: A digest, a folder, `latest`; `promoted` is what a gate let pass under this profile, `previous` the
            one before it. `promoted/<model>` and `promoted/<model>/<debug>` say of which model and debug preset.
        profile: Profile of the line that promoted it.
        key: Config key that the reference comes from.

    Raises:
        GateNoGo: If nothing is promoted because the gate refused every engine.
        GateInconclusive: If nothing is promoted because the gate could not tell.
        ArtifactError: If there is no such engine, or several models have one.
    """
    word, *rest = reference.split("/")
    if word not in ("promoted", "previous") or len(rest) > 2:
        return artifact(store, "engine", reference, key=key)
    model = rest[0] if rest else ""
    debug = rest[1] if len(rest) == 2 else "none"
    wanted = [
        line
        for line in promoted_lines(store)
        if (line.profile, line.debug) == (profile, debug) and model in ("", line.model)
    ]
    if len(wanted) > 1:
        raise ArtifactError(
            "several models have a promoted engine",
            where=key,
            seen=", ".join(map(str, wanted)),
            fix=f"say which: {key}={word}/{wanted[0].model}",
        )
    if not wanted:
        raise _nothing_promoted(store, reference, profile, model, debug, key)
    promotions = Promotions(store, wanted[0])
    found = promotions.current if word == "promoted" else promotions.previous
    if found is None:
        raise ArtifactError(
            "there was no promoted engine before this one", where=key, seen=str(wanted[0]), fix=f"give {key}=<digest>"
        )
    return store.get(found.engine, "engine")


def _nothing_promoted(
    store: ArtifactStore, reference: str, profile: str, model: str, debug: str, key: str
) -> ThroughlineError:
    """Returns the error that says why there is no promoted engine, and how to serve one all the same."""
    for decision in reversed(store.all("decision")):
        values = json.loads((decision.path / "decision.json").read_text())
        line = Line(**values["line"]) if "line" in values else Line("", "")
        if (line.profile, line.debug) == (profile, debug) and model in ("", line.model):
            return refusal(values, where=key, fix=f"serve it all the same with {key}={values['candidate_digest'][:12]}")
    others = ", ".join(f"{key}=promoted/{line.model}/{line.debug}" for line in promoted_lines(store))
    return ArtifactError(
        "no engine is promoted yet",
        where=key,
        seen=f"{reference}, profile {profile}, debug {debug}",
        fix=f"run `python -m recipes.lifecycle`, or give {others or f'{key}=latest'}",
    )


def refusal(decision: Mapping[str, Any], *, where: str, fix: str) -> GateNoGo | GateInconclusive:
    """Returns what a gate that let nothing pass says of the best engine, as the error with its exit code."""
    verdict = decision["verdicts"][decision["candidate"]]
    kind = GateInconclusive if verdict["decision"] == "INCONCLUSIVE" else GateNoGo
    where = f"{where}, {decision['candidate']}"
    return kind("no engine passes the gate", where=where, seen=verdict["reasons"][0], fix=fix)
