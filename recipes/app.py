"""What every recipe shares: Hydra in, one validated config, exit codes, and the lines a person reads."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field, TypeAdapter

from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.config import StrictModel, parse
from throughline.contracts.errors import ConfigError, InternalError, ThroughlineError
from throughline.contracts.text import did_you_mean

CONF = Path(__file__).parent / "conf"
C = TypeVar("C", bound="RecipeConfig")


class PathsSpec(StrictModel):
    """Where things lie. `home` is the artifact store; `model_repository` is what Triton serves."""

    home: Path = Path("artifacts")
    model_repository: Path = Path("model_repository")


class LogSpec(StrictModel):
    """How a run talks: `human` lines, or one JSON object a line; `level` as in `logging`."""

    format: str = Field(default="human", pattern="^(human|json)$")
    level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")


class ModelSpec(StrictModel):
    """The base checkpoint: `lab` is the one in this repository, `hf` a Hugging Face folder at `path`."""

    source: str = Field(pattern="^(lab|hf)$")
    name: str
    path: Path | None = None


class RecipeConfig(StrictModel):
    """What every recipe's config has."""

    profile: str
    seed: int = 0
    paths: PathsSpec = PathsSpec()
    log: LogSpec = LogSpec()

    def store(self) -> ArtifactStore:
        """The artifact store; `THROUGHLINE_HOME` wins over `paths.home`."""
        return ArtifactStore(os.environ.get("THROUGHLINE_HOME") or self.paths.home)


def recipe(schema: type[C], *, nemo: bool = False) -> Callable[[Callable[[C], None]], Callable[[], None]]:
    """Makes `function(config)` a command: Hydra composes `conf/<module>.yaml`, `schema` validates it.

    With `nemo` the command runs under NeMo's `hydra_runner`, as NeMo's own training scripts do.

    The command exits with 0, or with the error's code: 1 a fault of ours, 2 the user's input, 3 a gate
    said no, 4 a gate could not tell, 130 after Ctrl-C.
    """

    def decorate(function: Callable[[C], None]) -> Callable[[], None]:
        name = Path(function.__code__.co_filename).stem
        doc = sys.modules[function.__module__].__doc__ or ""

        def command() -> None:
            sys.exit(run(name, doc, schema, function, nemo=nemo))

        return command

    return decorate


def run(name: str, doc: str, schema: type[C], function: Callable[[C], None], *, nemo: bool = False) -> int:
    """Runs a recipe with `sys.argv` and returns its exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _register_resolvers(name, doc)
    _register_defaults(name, schema)

    def job(config: DictConfig) -> None:
        settings = to_schema(config, schema)
        _set_up_logging(settings.log)
        function(settings)

    try:
        _runner(name, nemo=nemo)(job)()
    except ThroughlineError as error:
        return report(error)
    except (HydraException, OmegaConfBaseException) as error:
        return report(config_error(name, error))
    except KeyboardInterrupt:
        print("\nstopped; what was finished is kept, run the same command to go on", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _runner(name: str, *, nemo: bool) -> Callable[[Callable[[DictConfig], None]], Callable[[], Any]]:
    # NeMo takes ten seconds to import, which help and `--cfg` should not cost.
    if nemo and not any(argument.startswith("-") and argument not in {"-m", "--multirun"} for argument in sys.argv[1:]):
        logging.getLogger("nv_one_logger").setLevel(logging.ERROR)
        from nemo.core.config import hydra_runner

        runner: Callable[[Callable[[DictConfig], None]], Callable[[], Any]]
        runner = hydra_runner(config_path=str(CONF), config_name=name)
        return runner
    import hydra

    return hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)


def to_schema(config: DictConfig, schema: type[C]) -> C:
    """Resolves a composed config and validates it.

    Raises:
        ConfigError: Naming every faulty key.
    """
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if not isinstance(values, dict):
        raise InternalError("config is not a mapping", seen=type(values).__name__)
    return parse(schema, {str(key): value for key, value in values.items()}, where="")


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Composes a recipe's config without running it.

    Raises:
        ConfigError: If an override or a preset does not exist.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    _register_resolvers(name, "")
    _register_defaults(name, importlib.import_module(f"recipes.{name}").Config)
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        try:
            return hydra_compose(config_name=name, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            found: Exception = error
    raise config_error(name, found)


def config_error(name: str, error: Exception) -> ConfigError:
    """Turns Hydra's and OmegaConf's exceptions into our grammar, with the nearest known key."""
    text = str(error).strip()
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        wanted = key.group(1)
        return ConfigError(
            "unknown config key",
            where=f"recipes/conf/{name}.yaml",
            seen=f"'{wanted}'",
            fix=_nearest_key(name, wanted),
        )
    missing = re.search(r"Could not find '([^']+)'", text)
    if missing:
        group, _, choice = missing.group(1).rpartition("/")
        return ConfigError(
            f"no preset '{choice}' in group '{group}'",
            where=f"recipes/conf/{group}",
            fix=did_you_mean(choice, [path.stem for path in (CONF / group).glob("*.yaml")]),
        )
    full_key = getattr(error, "full_key", None)
    return ConfigError(
        "config cannot be composed",
        where=f"recipes/conf/{name}.yaml" + (f":{full_key}" if full_key else ""),
        seen=text.splitlines()[0] if text else type(error).__name__,
        fix=f"see `python -m recipes.{name} --help`",
    )


def _nearest_key(name: str, wanted: str) -> str:
    try:
        known = _keys(OmegaConf.to_container(compose(name, []), resolve=False))
    except ConfigError:
        known = []
    return did_you_mean(wanted, known)


def _keys(value: Any, prefix: str = "") -> list[str]:
    found = []
    for key, item in value.items() if isinstance(value, dict) else ():
        path = f"{prefix}{key}"
        found.append(path)
        found += _keys(item, f"{path}.")
    return found


def report(error: ThroughlineError) -> int:
    """Prints an error as a person wants it and returns its exit code."""
    if error.exit_code == 1:
        traceback.print_exception(error)
    else:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return error.exit_code


def say(line: str = "") -> None:
    """Prints one line for people, at once."""
    print(line, flush=True)


def made(artifact: Artifact, *, again: bool, next_command: str) -> None:
    """Prints where an artifact is, its digest, and what to run next."""
    seconds = artifact.manifest.seconds
    say(f"{'found' if again else 'made'}  {artifact.short}" + ("" if again else f"  in {seconds:.1f} s"))
    say(f"where  {artifact.path}")
    say(f"next   {next_command}")


def _register_defaults(name: str, schema: type[BaseModel]) -> None:
    """Offers the schema's defaults as the preset `schema: <name>`, so that every field can be overridden."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(group="schema", name=name, node=defaults_of(schema), package="_global_")


def defaults_of(schema: type[BaseModel]) -> dict[str, Any]:
    """Returns a model's defaults in plain types, nested models included; required fields are Hydra's `???`."""
    found: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found[name] = defaults_of(kind)
        elif field.is_required():
            found[name] = "???"
        else:
            found[name] = TypeAdapter(Any).dump_python(field.get_default(call_default_factory=True), mode="json")
    return found


def _register_resolvers(name: str, doc: str) -> None:
    OmegaConf.register_new_resolver("recipe_name", lambda: name, replace=True)
    OmegaConf.register_new_resolver("recipe_help", lambda: doc.strip(), replace=True)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        import orjson

        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = getattr(record, "data", None)
        if isinstance(extra, dict):
            entry |= extra
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(entry, default=str).decode()


def _set_up_logging(spec: LogSpec) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if spec.format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s: %(message)s"))
    logger = logging.getLogger("throughline")
    logger.handlers[:] = [handler]
    logger.setLevel(spec.level)
    logger.propagate = False
