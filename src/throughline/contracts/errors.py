"""The one exception tree and its grammar: what failed — where — what was seen — what to do."""

from __future__ import annotations


class ThroughlineError(Exception):
    """Base of every error that Throughline raises on purpose.

    Args:
        what: What failed, as a clause without a final full stop.
        where: File and line, config key, record id or tenant; left out of the text when empty.
        seen: The offending value, already shortened for people.
        fix: What the reader should do next.

    The text reads `what — where — seen: … — fix`, with the empty parts left out.
    """

    exit_code: int = 1

    def __init__(self, what: str, *, where: str = "", seen: object = None, fix: str = "") -> None:
        self.what = what
        self.where = where
        self.seen = seen
        self.fix = fix
        parts = [what]
        if where:
            parts.append(where)
        if seen is not None:
            parts.append(f"seen: {seen}")
        if fix:
            parts.append(fix)
        super().__init__(" — ".join(parts))


class UserError(ThroughlineError):
    """The input, configuration or machine is wrong; printed without a traceback (exit code 2)."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration value is missing, unknown or out of range; `where` is its key."""


class DataError(UserError):
    """A record or data source cannot be used; `where` is `file:line` or the record id."""


class CheckpointError(UserError):
    """A model folder is missing, incomplete or of a family that we do not support."""


class EngineError(UserError):
    """An engine cannot be built, loaded or asked for this."""


class EngineLintError(EngineError):
    """Engine settings contradict one another, the GPU or the runtime version."""


class DeployError(UserError):
    """A Triton repository or server cannot be rendered, started or reached."""


class GatewayError(UserError):
    """The gateway cannot be configured or started."""


class MissingDependencyError(UserError):
    """An optional package or system library is absent; `fix` is the command that installs it."""


class TuningError(UserError):
    """A search for settings cannot end well: no point keeps the SLO, or what is measured died."""


class MeasurementError(UserError):
    """A benchmark's figures contradict one another, so that nothing may be concluded from them."""


class StorageError(UserError):
    """A disk is full, read-only or failing, or a file may not be read or written; `where` is the file or folder."""


class ArtifactError(UserError):
    """An artifact is unknown, ambiguous or was changed after it was made."""


class InternalError(ThroughlineError):
    """A fault of ours: an invariant did not hold (exit code 1, with a traceback)."""

    exit_code = 1


class GateNoGo(ThroughlineError):
    """A gate decided `NO_GO` (exit code 3)."""

    exit_code = 3


class GateInconclusive(ThroughlineError):
    """A gate had too little evidence to decide (exit code 4)."""

    exit_code = 4
