"""Hydra's composition: presets and overrides to one validated config, and its errors in our grammar."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, TypeAdapter

from recipes.config import RecipeConfig
from throughline.contracts.config import parse
from throughline.contracts.errors import ConfigError, InternalError
from throughline.contracts.price import PriceSpec
from throughline.contracts.slo import SloSpec
from throughline.contracts.text import did_you_mean
from throughline.contracts.workload import Workload

CONF = Path(__file__).parent / "conf"
OPTIONAL_GROUPS: dict[str, type[BaseModel]] = {"workload": Workload, "slo": SloSpec, "price": PriceSpec}
C = TypeVar("C", bound=RecipeConfig)


def to_schema(config: DictConfig, schema: type[C]) -> C:
    """Resolves a composed config and validates it.

    Raises:
        ConfigError: Naming every faulty key.
    """
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if not isinstance(values, dict):
        raise InternalError("config is not a mapping", seen=type(values).__name__)
    return parse(schema, {str(key): value for key, value in values.items()}, where="")


def compose(name: str, overrides: Sequence[str], *, schema: type[BaseModel] | None = None) -> DictConfig:
    """Composes a recipe's config without running it.

    Args:
        name: The recipe.
        overrides: As on its command line.
        schema: Its settings, where the caller has them; found by the name else.

    Raises:
        ConfigError: If an override or a preset does not exist.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers(name, "")
    register_defaults(name, schema or importlib.import_module(f"recipes.{name}").Config)
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


def register_defaults(name: str, schema: type[BaseModel]) -> None:
    """Offers the schema's defaults as the preset `schema: <name>`, so that every field can be overridden."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="schema", name=name, node=defaults_of(schema), package="_global_")
    # Of a group that a recipe may go without, the preset brings the schema.
    for group, spec in OPTIONAL_GROUPS.items():
        store.store(group=group, name="schema", node=defaults_of(spec))


def defaults_of(schema: type[BaseModel]) -> dict[str, Any]:
    """Returns a model's defaults in plain types, nested models included; required fields are Hydra's `???`."""
    found: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found[name] = defaults_of(kind)
        elif field.is_required():
            found[name] = "???"
        elif get_origin(kind) is dict:
            # Its keys are the user's: Hydra would take none that the defaults have not.
            default = field.get_default(call_default_factory=True)
            found[name] = OmegaConf.create(default, flags={"struct": False})
        else:
            found[name] = TypeAdapter(Any).dump_python(field.get_default(call_default_factory=True), mode="json")
    return found


def register_resolvers(name: str, doc: str) -> None:
    """Gives the help template the recipe's name and its module's docstring."""
    OmegaConf.register_new_resolver("recipe_name", lambda: name, replace=True)
    OmegaConf.register_new_resolver("recipe_help", lambda: doc.strip(), replace=True)
