"""What every recipe's config has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from throughline.artifacts import ArtifactStore
from throughline.contracts.config import StrictModel


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
