"""What a config's references name: a digest, a folder, `latest`, `promoted`, `previous`, `candidate`.

`latest` is the newest of one lineage, never the newest of all. A dataset is rendered for one tokenizer and template, a
checkpoint tuned from one base model, an engine built from one. So `latest` is the newest that fits what it is wanted
for; where several models would do, it asks for one by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes import convert, inputs
from throughline.artifacts import Alias, Artifact, ArtifactStore, Line, Promotions, promoted_lines
from throughline.contracts.errors import ArtifactError, GateInconclusive, GateNoGo, InternalError, ThroughlineError


def dataset(
    store: ArtifactStore,
    reference: str,
    folder: Path,
    model: Artifact | None = None,
    *,
    names: Sequence[str] = inputs.RENDERING,
    fix: str = "run `python -m recipes.data` with this model, or name its dataset=…",
) -> Artifact:
    """Returns the dataset for a checkpoint or engine.

    Args:
        store: Where it lies.
        reference: A digest or folder; `latest` is the one that the model was tuned on, else the newest that was
            rendered for its tokenizer and template.
        folder: The checkpoint or engine.
        model: Its artifact, if it is one.
        names: What must be the same in both, see `inputs.rendering`.
        fix: What to do where there is none.

    Raises:
        ArtifactError: If there is none, or the one named was rendered for another model.
    """
    if reference != "latest":
        found = store.get(reference, "dataset")
        inputs.check_rendering(found, folder, names=names, fix=fix)
        return found
    known = store.all("dataset")
    if not known:
        raise ArtifactError("there is no dataset yet", where="dataset", seen=reference, fix=fix)
    tuned_on = [item for item in store.ancestors(model) if item.manifest.kind == "dataset"] if model else []
    for item in [*reversed(tuned_on), *reversed(known)]:
        if not inputs.differing(item, folder, names):
            return item
    # The newest says what differs.
    inputs.check_rendering(known[-1], folder, names=names, fix=fix)
    raise InternalError("a dataset fits and was passed over", where=str(folder))


def checkpoint(store: ArtifactStore, reference: str, config: inputs.HasModel) -> Artifact:
    """Returns a tuned checkpoint: the one that is named, or with `latest` the newest tuned from the base model.

    Raises:
        ArtifactError: If there is none; names those of other models.
    """
    if reference != "latest":
        return store.get(reference, "checkpoint")
    tuned = [item for item in store.all("checkpoint") if item.manifest.inputs]
    if not tuned:
        raise ArtifactError(
            "there is no checkpoint yet", where="checkpoint", seen=reference, fix="run `python -m recipes.train`"
        )
    base = convert.make(config)
    own = [item for item in tuned if item.manifest.inputs.get("base") == base.digest]
    if own:
        return own[-1]
    raise ArtifactError(
        f"no checkpoint was tuned from {config.model.name} yet",
        where="checkpoint=latest",
        seen=", ".join(item.short for item in tuned[-3:]),
        fix="run `python -m recipes.train`, name the model (model=…) or give checkpoint=<digest>",
    )


def engine(
    store: ArtifactStore, reference: str, profile: str, *, key: str = "target", embeds: bool = False
) -> Artifact:
    """Returns the engine that a config value names.

    Args:
        store: Where it lies.
        reference: A digest, a folder, `latest`; `promoted` is what a gate let pass under this profile, `previous` the
            one before it, `candidate` what the tuner chose and a gate let pass. `promoted/<model>` and
            `promoted/<model>/<debug>` say of which model and debug preset.
        profile: Profile of the line that promoted it.
        key: Config key that the reference comes from.
        embeds: Whether `latest` is the newest that makes vectors, and not the newest that makes tokens.

    Raises:
        GateNoGo: If nothing is promoted because the gate refused every engine.
        GateInconclusive: If nothing is promoted because the gate could not tell.
        ArtifactError: If there is no such engine, or several models have one.
    """
    word, *rest = reference.split("/")
    if word not in ("promoted", "previous", "candidate") or len(rest) > 2:
        return _engine(store, reference, key, embeds=embeds)
    model = rest[0] if rest else ""
    debug = rest[1] if len(rest) == 2 else "none"
    alias: Alias = "candidate" if word == "candidate" else "promoted"
    wanted = [
        line
        for line in promoted_lines(store, alias)
        if (line.profile, line.debug) == (profile, debug) and model in ("", line.model)
    ]
    if len(wanted) > 1:
        raise ArtifactError(
            f"several models have a {alias} engine",
            where=key,
            seen=", ".join(map(str, wanted)),
            fix=f"say which: {key}={word}/{wanted[0].model}",
        )
    if not wanted and alias == "candidate":
        raise ArtifactError(
            "there is no candidate yet",
            where=key,
            seen=f"{reference}, profile {profile}, debug {debug}",
            fix="run `python -m recipes.tune`",
        )
    if not wanted:
        raise _nothing_promoted(store, reference, profile, model, debug, key)
    promotions = Promotions(store, wanted[0], alias)
    found = promotions.previous if word == "previous" else promotions.current
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


def _engine(store: ArtifactStore, reference: str, key: str, *, embeds: bool) -> Artifact:
    """The engine that is named, or with `latest` the newest of its kind, if all were built from one base model."""
    if reference != "latest":
        return store.get(reference, "engine")
    found = [item for item in store.all("engine") if _embeds(item) == embeds]
    if not found:
        build = "python -m recipes.build" + (" engine=embedding" if embeds else "")
        raise ArtifactError("there is no engine yet", where=key, seen=reference, fix=f"run `{build}`")
    newest = {_base(store, item): item for item in found}
    if len(newest) > 1:
        raise ArtifactError(
            "several models have engines",
            where=f"{key}=latest",
            seen=", ".join(item.short for item in newest.values()),
            fix=f"say which: {key}=<digest>",
        )
    return found[-1]


def _embeds(built: Artifact) -> bool:
    spec = built.manifest.config.get("engine")
    return isinstance(spec, dict) and spec.get("embedding") is not None


def _base(store: ArtifactStore, built: Artifact) -> str:
    """The digest of the base checkpoint that an engine comes from, or of the foreign folder."""
    roots = [item for item in store.ancestors(built) if item.manifest.kind == "checkpoint" and not item.manifest.inputs]
    return roots[0].digest if roots else str(built.manifest.config.get("checkpoint", ""))
