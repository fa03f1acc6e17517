"""Files with the lines of their settings: Triton's `config.pbtxt`, JSON and YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml

PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_TRUE = {"true", "1"}


class BrokenFile(Exception):
    """A file that cannot be read as what it should be; `line` from 1."""

    def __init__(self, path: Path, line: int, seen: str) -> None:
        super().__init__(seen)
        self.path, self.line, self.seen = path, line, seen


@dataclass(frozen=True)
class ModelConfigFile:
    """A `config.pbtxt`; what is still a `${placeholder}` counts as not set, as it does for the back end.

    Attributes:
        path: The file.
        text: Its text.
        config: The parsed `ModelConfig` message.
    """

    path: Path
    text: str
    config: Any

    @classmethod
    def read(cls, path: Path) -> Self:
        """Parses a file.

        Raises:
            BrokenFile: If it is not protobuf text of a model configuration.
        """
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2

        text = path.read_text(encoding="utf-8", errors="replace")
        config = model_config_pb2.ModelConfig()
        try:
            text_format.Parse(_without_bare_placeholders(text), config)
        except text_format.ParseError as error:
            seen = str(error).partition(" : ")[2] or str(error)
            raise BrokenFile(path, error.GetLine() or 1, seen) from None
        return cls(path, text, config)

    @property
    def name(self) -> str:
        """The model's name: its directory's."""
        return self.path.parent.name

    def parameter(self, name: str) -> str | None:
        """Returns a parameter's text, None if it is missing, empty or a placeholder."""
        if name not in self.config.parameters:
            return None
        value = str(self.config.parameters[name].string_value)
        return None if not value or PLACEHOLDER.search(value) else value

    def flag(self, name: str) -> bool | None:
        """Returns a parameter as true or false."""
        value = self.parameter(name)
        return None if value is None else value.lower() in _TRUE

    def number(self, name: str) -> float | None:
        """Returns a parameter as a number, None if it is none."""
        try:
            return float(self.parameter(name) or "")
        except ValueError:
            return None

    def line(self, name: str) -> int:
        """Returns the line of a parameter's value, or of a field; 1 if it is not there."""
        lines = self.text.splitlines()
        for number, line in enumerate(lines, start=1):
            if re.search(rf'key:\s*"{re.escape(name)}"', line):
                for offset, following in enumerate(lines[number - 1 : number + 4]):
                    if "string_value" in following:
                        return number + offset
                return number
        return next((n for n, line in enumerate(lines, start=1) if re.match(rf"\s*{re.escape(name)}\b", line)), 1)

    def placeholders(self) -> list[tuple[int, str]]:
        """Returns line and name of every placeholder that was never filled; comments do not count."""
        found = []
        for number, line in enumerate(self.text.splitlines(), start=1):
            code = line if "#" not in _QUOTED.sub("", line) else line.partition("#")[0]
            found += [(number, name) for name in PLACEHOLDER.findall(code)]
        return found


def _without_bare_placeholders(text: str) -> str:
    """Zeros where a number, an enum or a flag was never filled in, so that the rest can be parsed."""

    def keep(match: re.Match[str]) -> str:
        return match.group(0) if match.group(0).startswith('"') else "0"

    return re.sub(rf"{_QUOTED.pattern}|{PLACEHOLDER.pattern}", keep, text)


@dataclass(frozen=True)
class Document:
    """A JSON or YAML file.

    Attributes:
        path: The file.
        text: Its text.
        values: Its mapping.
    """

    path: Path
    text: str
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Parses a file by its ending.

        Raises:
            BrokenFile: If it is no mapping.
        """
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        except json.JSONDecodeError as error:
            raise BrokenFile(path, error.lineno, error.msg) from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark is not None else 1
            raise BrokenFile(path, line, str(getattr(error, "problem", error))) from None
        if values is None and path.suffix != ".json":
            values = {}
        if not isinstance(values, Mapping):
            raise BrokenFile(path, 1, f"{type(values).__name__}, not a mapping")
        return cls(path, text, values)

    def get(self, *keys: str, default: Any = None) -> Any:
        """Returns a nested value, `default` if any key of the way is missing."""
        found: Any = self.values
        for key in keys:
            if not isinstance(found, Mapping) or key not in found:
                return default
            found = found[key]
        return found

    def line(self, *keys: str) -> int:
        """Returns the line of a nested key, of the innermost one that is there, else 1."""
        node, line = self._root, 1
        for key in keys:
            pairs: Sequence[Any] = node.value if isinstance(node, yaml.MappingNode) else ()
            match = next((pair for pair in pairs if pair[0].value == key), None)
            if match is None:
                break
            line, node = match[0].start_mark.line + 1, match[1]
        return line

    @cached_property
    def _root(self) -> Any:
        # JSON is YAML but for tabs, which a line number is not worth an error for.
        try:
            return yaml.compose(self.text.replace("\t", " "), Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            return None
