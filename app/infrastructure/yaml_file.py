"""Reads a YAML file for people's eyes: every value with its line, so that an error can say where it is."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import yaml
from dotenv import dotenv_values

from app.domain.errors import ConfigurationError

Place = tuple[str | int, ...]
"""Keys, and places in lists from 0, from the file's root to a value."""
_REFERENCE: Final = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\})")
# Names of anchors and tags may be what a secret looks like that nobody quoted.
_QUOTED: Final = re.compile(r"'(?!<)[^']{2,}'")


@dataclass(frozen=True, slots=True)
class YamlFile:
    """A file's values, and the line of each."""

    name: str
    values: Any
    lines: Mapping[Place, int]

    def where(self, place: Place) -> str:
        """Return file and line of a place; one that is not in the file stands where its parent does."""
        known = place
        while known and known not in self.lines:
            known = known[:-1]
        return f"{self.name}, line {self.lines.get(known, 1)}"

    def error(self, place: Place, message: str) -> ConfigurationError:
        """Return an error with file, line and key; the message has no full stop."""
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        return ConfigurationError(f"{self.where(place)}: {key}{': ' if key else ''}{message}.")


def read_yaml(path: Path, variable: str) -> YamlFile:
    """Read a file and put variables in for `${NAME}`; `$$` stands for one `$`. Secrets need not stand in files.

    Variables are those of the process and of `.env`; `variable` is the one that names the file.

    Raises:
        ConfigurationError: it cannot be read or is no YAML, a key stands twice, or a variable is not set. No value is
            in the message.
    """
    lines: dict[Place, int] = {}
    file = YamlFile(path.name, None, lines)
    try:
        loader = yaml.SafeLoader(path.read_text("utf-8"))
        node = loader.get_single_node()
        if node is None:
            return file
        _note_lines(node, (), file, lines)
        values = cast("Any", loader).construct_document(node)
        environment = {**dotenv_values(".env"), **os.environ}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{variable}: '{path}' cannot be read: {type(error).__name__}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = 1 if mark is None else mark.line + 1
        problem = _QUOTED.sub("it", str(getattr(error, "problem", None) or "unreadable characters"))
        raise ConfigurationError(f"{path.name}, line {line}: not YAML: {problem}.") from None  # the cause holds values
    except ValueError as error:
        raise ConfigurationError(f"{path.name}: a date or number in it does not exist.") from error
    return YamlFile(path.name, _expanded(values, (), file, environment), lines)


def _note_lines(
    node: yaml.Node, place: Place, file: YamlFile, lines: dict[Place, int], above: tuple[int, ...] = ()
) -> None:
    """Note where everything stands; refuse keys that stand there twice, of which YAML keeps the last."""
    lines.setdefault(place, node.start_mark.line + 1)
    if id(node) in above:
        raise file.error(place, "it contains itself")
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            inner = (*place, name)
            lines[inner] = line
            if name in seen:
                raise file.error(inner, f"it is in line {seen[name]} already")
            seen[name] = line
            _note_lines(value, inner, file, lines, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(value, (*place, index), file, lines, above)


def _expanded(value: Any, place: Place, file: YamlFile, environment: Mapping[str, str | None]) -> Any:
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {key: _expanded(inner, (*place, str(key)), file, environment) for key, inner in items}
    if isinstance(value, list):
        numbered = enumerate(cast("list[Any]", value))
        return [_expanded(inner, (*place, index), file, environment) for index, inner in numbered]
    if not isinstance(value, str):
        return value

    def put(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "$"
        found = environment.get(name)
        if found is None:
            raise file.error(place, f"the variable {name} is not set")
        return found

    return _REFERENCE.sub(put, value)
