"""What every recipe shares: Hydra in, one validated config, exit codes, and the lines a person reads."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from recipes.composing import CONF as CONF
from recipes.composing import C as C
from recipes.composing import compose as compose
from recipes.composing import config_error, register_defaults, register_resolvers
from recipes.composing import to_schema as to_schema
from recipes.config import LogSpec as LogSpec
from recipes.config import ModelSpec as ModelSpec
from recipes.config import PathsSpec as PathsSpec
from recipes.config import RecipeConfig as RecipeConfig
from recipes.logs import set_up_logging
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.errors import StorageError, ThroughlineError
from throughline.contracts.storage import storage_errors
from throughline.reporting import console

# As a shell counts a command that SIGPIPE ended.
BROKEN_PIPE = 141
_SWEEPS = {"-m", "--multirun"}
# The command line of the recipe that runs; empty where none does.
_typed: ContextVar[str] = ContextVar("typed", default="")


def recipe(
    schema: type[C], *, nemo: bool = False, capture: bool = True, after_sweep: Callable[[], None] | None = None
) -> Callable[[Callable[[C], None]], Callable[[], None]]:
    """Makes `function(config)` a command: Hydra composes `conf/<module>.yaml`, `schema` validates it.

    With `nemo` the command runs under NeMo's `hydra_runner`, as NeMo's own training scripts do. With `capture`
    what libraries print goes to a log; a command that reads from the terminal needs its own descriptors.
    `after_sweep` is called once the last job of a sweep (`-m`) has ended well.

    The command exits with 0, or with the error's code: 1 a fault of ours, 2 the user's input, 3 a gate
    said no, 4 a gate could not tell, 130 after Ctrl-C.
    """

    def decorate(function: Callable[[C], None]) -> Callable[[], None]:
        name = Path(function.__code__.co_filename).stem
        doc = sys.modules[function.__module__].__doc__ or ""

        def command() -> None:
            options: dict[str, Any] = {"nemo": nemo, "capture": capture, "after_sweep": after_sweep}
            sys.exit(finished(lambda: run(name, doc, schema, function, **options)))

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
    after_sweep: Callable[[], None] | None = None,
) -> int:
    """Runs a recipe with `sys.argv` and returns its exit code."""
    token = _typed.set(shlex.join(["python", "-m", f"recipes.{name}", *sys.argv[1:]]))
    os.environ["HYDRA_FULL_ERROR"] = "1"
    register_resolvers(name, doc)
    register_defaults(name, schema)

    def job(config: DictConfig) -> None:
        settings = to_schema(config, schema)
        with storage_errors(settings.store().home):
            if settings.log.shows_foreign:
                foreign.stop(replay=True)
            else:
                foreign.move_to(_log_path(settings.store(), name))
            set_up_logging(settings.log)
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
    try:
        if capture and _runs():
            _start(foreign)
        if _plain() and not nemo:
            # Hydra's own front composes everything twice, once to learn whether it is a sweep.
            guarded(compose(name, sys.argv[1:], schema=schema))
        else:
            _runner(name, nemo=nemo and _runs())(guarded)()
        if after_sweep is not None and _SWEEPS & set(sys.argv[1:]):
            after_sweep()
    except _Failed as failed:
        code = report(failed.error)
    except (HydraException, OmegaConfBaseException) as error:
        code = report(config_error(name, error))
    except BrokenPipeError:
        code = _unread()
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
    _typed.reset(token)
    return code


def finished(work: Callable[[], int]) -> Any:
    """Returns a command's exit code once all that it printed is out, or `BROKEN_PIPE` where its reader has gone.

    Left to itself, the interpreter notices that when it ends, complains, and exits with 120.
    """
    try:
        try:
            code: Any = work()
        except SystemExit as front:
            # Hydra's own end after help and `--cfg`.
            code = front.code
        sys.stdout.flush()
    except BrokenPipeError:
        return _unread()
    return code


def _unread() -> int:
    """Returns the exit code of a command whose reader has gone, as in `… | head`; nothing complains of it any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def command(otherwise: str) -> str:
    """Returns the command line of the recipe that runs, for reports; `otherwise` where none does."""
    return _typed.get() or otherwise


class _Failed(BaseException):
    """Carries a recipe's exception past Hydra, which would print a line of its own for an `Exception`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _start(foreign: console.Capture) -> None:
    """Opens the capture, which needs a temporary file.

    Raises:
        StorageError: If no disk has room for one; the standard library then finds no folder for it.
    """
    try:
        foreign.start()
    except OSError as error:
        raise StorageError(
            "no disk takes a temporary file",
            where="TMPDIR",
            seen=error.strerror,
            fix="free some space, or name another folder: TMPDIR=…",
        ) from error


def _runs() -> bool:
    """Whether the command runs the recipe: help and `--cfg` print through Hydra, which must not be caught."""
    return all(not argument.startswith("-") or argument in _SWEEPS for argument in sys.argv[1:])


def _plain() -> bool:
    """Whether the command line holds overrides of our own config alone."""
    return not any(argument.startswith(("-", "hydra", "+hydra", "~hydra")) for argument in sys.argv[1:])


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
