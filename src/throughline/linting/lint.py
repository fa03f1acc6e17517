"""Takes a path for what it is, and runs the rules for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from throughline.contracts.errors import ConfigError
from throughline.contracts.linting import Finding, Rule
from throughline.documents import BrokenFile, Document, ModelConfigFile
from throughline.linting import checkpoint, engine, llmapi, repository
from throughline.linting.engine import EngineDirectory, Target

SYNTAX = Rule("syntax", "error", "a file can be read")
RULES = {rule.id: rule for rule in (SYNTAX, *repository.RULES, *engine.RULES, *llmapi.RULES, *checkpoint.RULES)}
_PBTXT = "config.pbtxt"


def lint(path: Path, target: Target | None = None) -> list[Finding]:
    """Returns what contradicts, by file and line.

    Args:
        path: A model repository, a model's folder in one, an engine directory, a checkpoint, or a YAML file of `LLM()`
            options.
        target: Where it will run.

    Raises:
        ConfigError: If it is none of these.
    """
    found = list(_lint(Path(path), target or Target()))
    return sorted(found, key=lambda item: (str(item.path), item.line, item.rule.id, item.key))


def _lint(path: Path, target: Target) -> Iterator[Finding]:
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        yield from _options(path, None)
        return
    if path.is_file() and path.name == _PBTXT:
        path = path.parent
    configs = sorted({*path.glob(f"*/{_PBTXT}"), *path.glob(_PBTXT)}) if path.is_dir() else []
    if configs:
        yield from _repository(path, configs, target)
        return
    file = path / "config.json"
    if not file.is_file():
        raise ConfigError(
            "nothing to lint here",
            where=str(path),
            seen=f"no {_PBTXT} in it or one level below, no config.json, no YAML file",
            fix="give a model repository, an engine directory, a checkpoint folder or a file of LLM() options",
        )
    try:
        built = EngineDirectory.find(path)
        if built is not None:
            yield from engine.check_engine(built, target)
        else:
            yield from checkpoint.check_checkpoint(Document.read(file), target)
    except BrokenFile as broken:
        yield _broken(broken)


def _repository(path: Path, configs: list[Path], target: Target) -> Iterator[Finding]:
    models: dict[str, ModelConfigFile] = {}
    for file in configs:
        try:
            models[file.parent.name] = ModelConfigFile.read(file)
        except BrokenFile as broken:
            yield _broken(broken)
    built = None
    served = models.get(repository.ENGINE_MODEL)
    folder = served.parameter("gpt_model_path") if served is not None else None
    try:
        built = EngineDirectory.find(Path(folder)) if folder else None
        if built is not None:
            yield from engine.check_engine(built, target)
    except BrokenFile as broken:
        yield _broken(broken)
    yield from repository.check_repository(repository.ModelRepository(path, models, built), target)
    for name, config in models.items():
        for file in sorted(config.path.parent.glob("*/model.yaml")):
            if file.parent.name.isdigit():
                yield from _options(file, models[name])


def _options(path: Path, config: ModelConfigFile | None) -> Iterator[Finding]:
    try:
        document = Document.read(path)
        yield from llmapi.check_llmapi(document, config)
        model = document.get("model")
        if isinstance(model, str):
            yield from checkpoint.check_scored(Path(model))
    except BrokenFile as broken:
        yield _broken(broken)


def _broken(broken: BrokenFile) -> Finding:
    return Finding(SYNTAX, broken.path, broken.line, broken.path.name, broken.seen, "correct the line")
