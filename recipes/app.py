"""What every recipe shares: Hydra in, one validated config, exit codes, and the lines a person reads."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field, TypeAdapter

from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.config import StrictModel, parse
from throughline.contracts.errors import ConfigError, InternalError, ThroughlineError
from throughline.contracts.text import did_you_mean
from throughline.reporting import console

# As a shell counts a command that SIGPIPE ended.
BROKEN_PIPE = 141
CONF = Path(__file__).parent / "conf"
C = TypeVar("C", bound="RecipeConfig")


class PathsSpec(StrictModel):
    """Where things lie. `home` is the artifact store; `model_repository` is what Triton serves.

    `recipes/conf/common.yaml` takes the environment's `THROUGHLINE_HOME` for `home` where it is set.
    """

    home: Path = Path("artifacts")
    model_repository: Path = Path("model_repository")


class LogSpec(StrictModel):
    """How a run talks: `human` lines, or one JSON object a line; `level` as in `logging`.

    `foreign` is where libraries' output goes: to a `file` below the artifact store, or to the `console`.
    Level DEBUG shows it on the console too.
    """

    format: str = Field(default="human", pattern="^(human|json)$")
    level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    foreign: Literal["file", "console"] = "file"

    @property
    def shows_foreign(self) -> bool:
        """Whether libraries' output is shown as it comes."""
        return self.foreign == "console" or self.level == "DEBUG"


class ModelSpec(StrictModel):
    """The base model, which `recipes.convert` brings in.

    Attributes:
        source: `gguf` for a GGUF file, `hf` for a Hugging Face folder.
        name: What it is called here.
        path: The file or folder.
        package: Installed distribution that carries the file, in place of `path`; never imported.
        file: The file inside `package`, as its record spells it.
        chat_template: `chatml` (ours: tools, Hermes calls, generation markers), `keep` (the model's own), or a path.
        system_prompt: With `chatml`, the system message of conversations without one; null takes the model's own.
        licence: Licence terms; null takes what the file or model card says.
        dtype: Type of the weights written from a GGUF file.
    """

    source: Literal["gguf", "hf"]
    name: str
    path: Path | None = None
    package: str | None = None
    file: str | None = None
    chat_template: str = "keep"
    system_prompt: str | None = None
    licence: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


class RecipeConfig(StrictModel):
    """What every recipe's config has."""

    profile: str
    seed: int = 0
    paths: PathsSpec = PathsSpec()
    log: LogSpec = LogSpec()

    def store(self) -> ArtifactStore:
        """The artifact store."""
        return ArtifactStore(self.paths.home)


def recipe(
    schema: type[C], *, nemo: bool = False, capture: bool = True
) -> Callable[[Callable[[C], None]], Callable[[], None]]:
    """Makes `function(config)` a command: Hydra composes `conf/<module>.yaml`, `schema` validates it.

    With `nemo` the command runs under NeMo's `hydra_runner`, as NeMo's own training scripts do. With `capture`
    what libraries print goes to a log; a command that reads from the terminal needs its own descriptors.

    The command exits with 0, or with the error's code: 1 a fault of ours, 2 the user's input, 3 a gate
    said no, 4 a gate could not tell, 130 after Ctrl-C.
    """

    def decorate(function: Callable[[C], None]) -> Callable[[], None]:
        name = Path(function.__code__.co_filename).stem
        doc = sys.modules[function.__module__].__doc__ or ""

        def command() -> None:
            sys.exit(run(name, doc, schema, function, nemo=nemo, capture=capture))

        return command

    return decorate


def run(
    name: str,
    doc: str,
    schema: type[C],
    function: Callable[[C], None],
    *,
    nemo: bool = False,
    capture: bool = True,
) -> int:
    """Runs a recipe with `sys.argv` and returns its exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _register_resolvers(name, doc)
    _register_defaults(name, schema)

    def job(config: DictConfig) -> None:
        settings = to_schema(config, schema)
        if settings.log.shows_foreign:
            foreign.stop(replay=True)
        else:
            foreign.move_to(_log_path(settings.store(), name))
        _set_up_logging(settings.log)
        function(settings)

    def guarded(config: DictConfig) -> None:
        try:
            job(config)
        except (HydraException, OmegaConfBaseException, BrokenPipeError):
            raise
        except Exception as error:
            raise _Failed(error) from error

    # Until the process ends, since libraries print when they are unloaded too.
    foreign = console.Capture(silent=os.environ.get("RANK", "0") != "0")
    if capture and _runs():
        foreign.start()
    try:
        _runner(name, nemo=nemo and _runs())(guarded)()
    except _Failed as failed:
        code = report(failed.error)
    except (HydraException, OmegaConfBaseException) as error:
        code = report(config_error(name, error))
    except BrokenPipeError:
        # The reader has gone, as in `… | head`; what is left in the buffer must not complain again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    except KeyboardInterrupt:
        console.complain("\nstopped; what was finished is kept, run the same command to go on")
        code = 130
    except Exception as error:
        code = report(error)
    else:
        code = 0
    show_log()
    if foreign.empty:
        # No empty file is left behind.
        foreign.stop()
    return code


class _Failed(BaseException):
    """Carries a recipe's exception past Hydra, which would print a line of its own for an `Exception`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _runs() -> bool:
    """Whether the command runs the recipe: help and `--cfg` print through Hydra, which must not be caught."""
    return all(not argument.startswith("-") or argument in {"-m", "--multirun"} for argument in sys.argv[1:])


def _log_path(store: ArtifactStore, name: str) -> Path:
    rank = os.environ.get("RANK", "0")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return store.home / "logs" / f"{stamp}-{name}{'' if rank == '0' else f'-rank{rank}'}.log"


def _runner(name: str, *, nemo: bool) -> Callable[[Callable[[DictConfig], None]], Callable[[], Any]]:
    # NeMo takes ten seconds to import, which help and `--cfg` should not cost.
    if nemo:
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


def report(error: Exception) -> int:
    """Prints an error as a person wants it and returns its exit code.

    A fault of ours comes with its traceback, below the last lines that libraries printed.
    """
    if isinstance(error, ThroughlineError) and error.exit_code != 1:
        console.complain(f"{type(error).__name__}: {error}")
        return error.exit_code
    caught = console.capture()
    tail = caught.tail() if caught is not None else ""
    if tail:
        console.complain(f"the last lines of the libraries' log:\n{tail}\n")
    console.complain("".join(traceback.format_exception(error)).rstrip())
    return 1


def echo(line: str = "") -> None:
    """Prints one line for people, at once."""
    console.echo(line)


def show_log() -> None:
    """Prints where the libraries' output is, once, if there is any."""
    caught = console.capture()
    if caught is None or caught.shown or caught.path is None or caught.empty:
        return
    caught.shown = True
    echo(f"log      {caught.path}")


def made(artifact: Artifact, *, again: bool, next_command: str) -> None:
    """Prints where an artifact is, its digest, and what to run next."""
    seconds = artifact.manifest.seconds
    echo(f"{'found   ' if again else 'made    '} {artifact.short}" + ("" if again else f"  in {seconds:.1f} s"))
    echo(f"where    {artifact.path}")
    echo(f"next     {next_command}")


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


class _ConsoleHandler(logging.Handler):
    """Our own records, through whatever stands on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            console.complain(self.format(record))
        except Exception:
            self.handleError(record)


def _set_up_logging(spec: LogSpec) -> None:
    handler: logging.Handler = _ConsoleHandler()
    if spec.format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s: %(message)s"))
    logger = logging.getLogger("throughline")
    logger.handlers[:] = [handler]
    logger.setLevel(spec.level)
    logger.propagate = False
