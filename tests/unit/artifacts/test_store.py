"""The artifact store: found instead of run, atomic, resumable, traceable both ways."""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.artifacts import Artifact, ArtifactStore, artifact_digest, code_version
from throughline.artifacts import environment
from throughline.artifacts.environment import library_versions
from throughline.artifacts.store import STAGING
from throughline.contracts.errors import ArtifactError, InternalError


def make(store: ArtifactStore, kind: str = "dataset", text: str = "x", **more: object) -> Artifact:
    options: dict[str, object] = {"config": {"text": text}, "code_version": "1"} | more
    with store.stage(kind, "n", **options) as run:  # type: ignore[arg-type]
        if run.cached:
            return run.cached
        (run.directory / "data.txt").write_text(text)
        return run.commit(metrics={"rows": len(text)})


def test_same_inputs_and_config_are_found_not_made_again(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    first = make(store)
    with store.stage("dataset", "other name", config={"text": "x"}, code_version="1") as run:
        assert run.cached is not None
        assert run.cached.path == first.path
    assert first.manifest.metrics == {"rows": 1}
    assert [entry.path for entry in first.manifest.files] == ["data.txt"]


@pytest.mark.parametrize("change", [{"config": {"text": "y"}}, {"code_version": "2"}, {"seed": 1}])
def test_any_change_makes_another_artifact(tmp_path: Path, change: dict[str, object]) -> None:
    store = ArtifactStore(tmp_path)
    assert make(store).digest != make(store, **change).digest


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.integers())))
def test_digest_does_not_depend_on_key_order(config: dict[str, object]) -> None:
    turned = dict(reversed(list(config.items())))
    assert artifact_digest("engine", {}, config, "1", 0) == artifact_digest("engine", {}, turned, "1", 0)


def test_a_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with pytest.raises(ZeroDivisionError), store.stage("dataset", "n", config={}, code_version="1") as run:
        (run.directory / "half.txt").write_text("half")
        raise ZeroDivisionError
    assert store.all() == []
    assert not run.directory.exists()


def test_leaving_without_commit_is_our_fault(tmp_path: Path) -> None:
    with (
        pytest.raises(InternalError, match="without commit"),
        ArtifactStore(tmp_path).stage("dataset", "n", config={}, code_version="1"),
    ):
        pass


def _killed(home: Path, resumable: bool) -> None:
    stage = ArtifactStore(home).stage("adapter", "n", config={}, code_version="1", resumable=resumable)
    with stage as run:
        (run.directory / "step_100").write_text("state")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("resumable", [True, False])
def test_a_killed_run_leaves_no_artifact_and_resumes_where_asked(tmp_path: Path, resumable: bool) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(tmp_path, resumable))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = ArtifactStore(tmp_path)
    assert store.all() == []
    with store.stage("adapter", "n", config={}, code_version="1", resumable=resumable) as run:
        assert run.resumed is resumable
        assert (run.directory / "step_100").exists() is resumable
        (run.directory / "adapter").write_text("done")
        run.commit()
    assert len(store.all("adapter")) == 1
    assert not any(path.is_dir() for path in (tmp_path / STAGING).iterdir())


def test_lineage_runs_both_ways_and_carries_licences(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    data = make(store, licences=("CC-BY-4.0",))
    adapter = make(store, "adapter", inputs={"dataset": data})
    engine = make(store, "engine", inputs={"adapter": adapter}, licences=("Apache-2.0",))
    other = make(store, "dataset", text="other")
    assert [item.digest for item in store.ancestors(engine)] == [data.digest, adapter.digest]
    assert {item.digest for item in store.descendants(data)} == {adapter.digest, engine.digest}
    assert store.descendants(other) == []
    assert engine.manifest.licences == ("Apache-2.0", "CC-BY-4.0")


def test_get_by_prefix_and_path(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    one = make(store)
    assert store.get(one.digest[:8]).path == one.path
    assert store.get(str(one.path)).digest == one.digest
    with pytest.raises(ArtifactError, match="does not name one engine"):
        store.get(one.digest[:8], "engine")
    with pytest.raises(ArtifactError, match="seen: none"):
        store.get("ffffffff")


def test_damage_is_found(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    one = make(store, text="abc")
    (one.path / "data.txt").write_text("abd")
    with pytest.raises(ArtifactError, match=r"data\.txt — seen: changed"):
        one.verify()
    with pytest.raises(ArtifactError, match=r"data\.txt — seen: changed"):
        make(store, text="abc")
    with pytest.raises(ArtifactError, match=r"data\.txt — seen: changed"):
        store.get(one.digest[:8])
    (one.path / "data.txt").write_text("ab")
    with pytest.raises(ArtifactError, match="2 bytes instead of 3"):
        make(store, text="abc")


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What the store logs, wherever a command that ran before has led its own logger."""
    logger, kept = logging.getLogger("throughline.artifacts"), _Kept()
    logger.addHandler(kept)
    yield kept.messages
    logger.removeHandler(kept)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "manifest is not JSON"),
        ("[]", "cannot be read by this version"),
        ('{"kind": "dataset"}', "manifest is damaged.*digest"),
        ('{"format_version": 99, "added later": 1}', "format_version 99, 1 known"),
    ],
)
def test_one_manifest_that_cannot_be_read_hides_no_other(
    tmp_path: Path, warnings: list[str], text: str, message: str
) -> None:
    store = ArtifactStore(tmp_path)
    one, two = make(store), make(store, text="y")
    (one.path / "manifest.json").write_text(text)
    assert store.all() == [two]
    assert store.get(two.digest[:8]) == two
    (warning,) = warnings
    assert re.search(message, warning) and str(one.path) in warning
    with pytest.raises(ArtifactError, match=message):
        make(store)


def test_an_artifact_that_lost_its_manifest_is_made_again(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    one = make(store)
    (one.path / "manifest.json").unlink()
    (one.path / "data.txt").write_text("half")
    again = make(store)
    assert again.path == one.path and (again.path / "data.txt").read_text() == "x"
    assert store.all() == [again]
    assert not any(path.is_dir() for path in (tmp_path / STAGING).iterdir())


def test_code_version_follows_the_sources() -> None:
    assert code_version("throughline.contracts") != code_version("throughline.artifacts")
    with pytest.raises(InternalError, match="no_such"):
        code_version("throughline.no_such")


def test_another_version_of_a_library_makes_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset of one tokenizer library, or an engine of one compiler, was found after an upgrade of it."""
    versions = library_versions(("data", "cpu"))
    assert versions["transformers"] and versions["openvino-genai"] and "locust" not in versions
    before = code_version("throughline.data", extras=("data",))
    assert code_version("throughline.data", extras=("data", "cpu")) != before
    real = environment.package_version
    monkeypatch.setattr(environment, "package_version", lambda name: "99" if name == "ftfy" else real(name))
    for function in (library_versions, code_version):
        function.cache_clear()
    assert code_version("throughline.data", extras=("data",)) != before
    assert code_version("throughline.data") == code_version("throughline.data", extras=())
    for function in (library_versions, code_version):
        function.cache_clear()
