"""What `target=promoted` means, and what a person is told when nothing is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from recipes import references
from throughline.artifacts import Artifact, ArtifactStore, Line, Promotions
from throughline.contracts.errors import ArtifactError, GateInconclusive, GateNoGo, ThroughlineError

LINE = Line("smollm2", "laptop")


def engine(store: ArtifactStore, name: str) -> Artifact:
    with store.stage("engine", name, config={"name": name}, code_version="1") as run:
        (run.directory / "engine.json").write_text(name)
        return run.commit()


def decide(store: ArtifactStore, verdict: str, candidate: Artifact, line: Line = LINE) -> None:
    """Writes the decision of a gate that let nothing pass."""
    values = {
        "line": asdict(line),
        "promoted": None,
        "candidate": "bf16",
        "candidate_digest": candidate.digest,
        "verdicts": {"bf16": {"decision": verdict, "reasons": ["triage_exact_match 0.1, at least 0.85 wanted, n=300"]}},
    }
    with store.stage("decision", "promotion", config={"verdict": verdict, **asdict(line)}, code_version="1") as run:
        (run.directory / "decision.json").write_text(json.dumps(values))
        run.commit()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


def test_promoted_and_previous_are_the_line_s_own(store: ArtifactStore) -> None:
    old, new, toy = (engine(store, name) for name in ("old", "new", "toy"))
    for item in (old, new):
        Promotions(store, LINE).move(item.digest, "d")
    Promotions(store, Line("smollm2", "laptop", "fast")).move(toy.digest, "d")
    assert references.engine(store, "promoted", "laptop").digest == new.digest
    assert references.engine(store, "previous", "laptop").digest == old.digest
    assert references.engine(store, "promoted/smollm2/fast", "laptop").digest == toy.digest
    assert references.engine(store, toy.digest, "laptop").digest == toy.digest
    with pytest.raises(ArtifactError, match="no promoted engine before this one"):
        references.engine(store, "previous/smollm2/fast", "laptop")


def test_several_models_are_told_apart(store: ArtifactStore) -> None:
    one, two = engine(store, "one"), engine(store, "two")
    Promotions(store, LINE).move(one.digest, "d")
    Promotions(store, Line("qwen3", "laptop")).move(two.digest, "d")
    with pytest.raises(ArtifactError, match=r"several models.*target=promoted/qwen3"):
        references.engine(store, "promoted", "laptop")
    assert references.engine(store, "promoted/qwen3", "laptop").digest == two.digest


@pytest.mark.parametrize(("verdict", "error", "code"), [("NO_GO", GateNoGo, 3), ("INCONCLUSIVE", GateInconclusive, 4)])
def test_a_refused_engine_is_not_promoted(
    store: ArtifactStore, verdict: str, error: type[ThroughlineError], code: int
) -> None:
    candidate = engine(store, "bf16")
    decide(store, verdict, candidate)
    with pytest.raises(error, match=rf"at least 0\.85 wanted.*target={candidate.digest[:12]}") as found:
        references.engine(store, "promoted", "laptop")
    assert found.value.exit_code == code


def test_an_engine_that_no_gate_saw_is_not_promoted(store: ArtifactStore) -> None:
    engine(store, "new")
    with pytest.raises(ArtifactError, match=r"no engine is promoted yet.*recipes\.lifecycle.*target=latest"):
        references.engine(store, "promoted", "laptop")


def test_a_debug_run_s_engine_is_offered_and_not_taken(store: ArtifactStore) -> None:
    Promotions(store, Line("smollm2", "laptop", "fast")).move(engine(store, "toy").digest, "d")
    with pytest.raises(ArtifactError, match=r"no engine is promoted yet.*target=promoted/smollm2/fast"):
        references.engine(store, "promoted", "laptop")
