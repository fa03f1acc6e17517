"""Strict configuration models: unknown keys name the nearest known one, all faults come together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from throughline.contracts.errors import ConfigError
from throughline.contracts.text import did_you_mean, shorten

M = TypeVar("M", bound=BaseModel)


class StrictModel(BaseModel):
    """Frozen pydantic model that refuses unknown keys; the base of every spec."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def parse(model: type[M], values: Mapping[str, Any], *, where: str) -> M:
    """Validates `values` as `model` and reports every fault in one error.

    Args:
        model: The pydantic model.
        values: Plain nested mapping, e.g. from a YAML file.
        where: Config key or file that the values come from.

    Raises:
        ConfigError: One line per fault, with its key, the value seen and the nearest known name.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(
            f"{model.__name__} does not validate ({error.error_count()} fault(s))",
            where=where,
            seen="; ".join(_fault(model, fault, where) for fault in error.errors()),
            fix=f"correct the keys under '{where}'" if where else "correct these keys",
        ) from None


def _fault(model: type[BaseModel], fault: Any, where: str) -> str:
    path = [str(part) for part in fault["loc"]]
    key = ".".join([where, *path]) if where else ".".join(path)
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key, {did_you_mean(path[-1], _fields_at(model, path[:-1]))}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    return f"{key}={shorten(fault.get('input'))}: {fault['msg']}"


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    current: Any = model
    for part in path:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            break
        current = field.annotation
    return list(getattr(current, "model_fields", {}))
