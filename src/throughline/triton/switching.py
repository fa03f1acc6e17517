"""Another version of a model on a server that runs: loaded beside the one that serves, which ends its own streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from throughline.contracts.errors import DeployError
from throughline.triton.client import InferenceError, TritonClient
from throughline.triton.repository import Version, is_embedding, read_config, replace_config, versions

# Token id 0 exists in every vocabulary; any text has a token.
_PROMPT = [0]
_PROBES: dict[str, dict[str, object]] = {
    "llmapi": {"text_input": "a", "sampling_param_max_tokens": 1, "return_finish_reason": True},
    "": {"input_ids": _PROMPT, "max_tokens": 1, "ignore_eos": True},
}


def probe(repository: Path, model: str) -> dict[str, object]:
    """Returns the inputs of a request for one token, in the model's own layout."""
    parameters = read_config(repository, model).parameters
    layout = parameters["layout"].string_value if "layout" in parameters else ""
    return _PROBES.get(layout, _PROBES[""])


def check_answer(client: TritonClient, repository: Path, model: str) -> None:
    """Asks for one token, or for one vector of a model that makes those, which exercises everything.

    Raises:
        DeployError: If none comes.
    """
    if is_embedding(read_config(repository, model)):
        if not client.embed(model, _PROMPT):
            raise DeployError("the model made no vector", where=model, fix="read the server's log")
        return
    answers = list(client.stream(model, probe(repository, model)))
    if not answers or not answers[-1].finish_reason:
        raise DeployError("the model made no token", where=model, seen=answers, fix="read the server's log")


def switch(client: TritonClient, repository: Path, model: str, render: Callable[[], int]) -> int:
    """Serves what `render` writes; if that does not load or answers nothing, what was served stays.

    Args:
        client: Of the running server.
        repository: Its model repository.
        model: Served model name.
        render: Changes the model's `config.pbtxt` and returns the version that it selects.

    Raises:
        DeployError: With the reason; the configuration is as it was.
    """
    before = read_config(repository, model)
    number = render()
    try:
        client.load(model)
        check_answer(client, repository, model)
    except DeployError:
        replace_config(repository, model, before)
        # Triton keeps a version whose successor fails to load; one that loads and says nothing must go.
        client.load(model)
        raise
    return number


def running_version(client: TritonClient, repository: Path, model: str) -> Version:
    """Returns the version that the server runs, by its own word: the folder may say more by now.

    Raises:
        DeployError: If the server does not know the model, or serves an engine of no version in the folder.
    """
    config = client.loaded_config(model)
    numbers = list(config.version_policy.specific.versions)
    parameters = config.parameters
    engine_dir = parameters["engine_dir"].string_value if "engine_dir" in parameters else ""
    # The folder may have been emptied and filled again since.
    found = [v for v in versions(repository, model) if v.number in numbers and v.engine_dir == engine_dir]
    if not found:
        raise InferenceError(
            "the running server serves an engine of no version in the repository",
            where=str(repository / model),
            seen=f"versions {numbers}, engine {engine_dir or 'unknown'}",
            fix="stop it with `python -m recipes.deploy action=stop` and deploy again",
        )
    return found[-1]
