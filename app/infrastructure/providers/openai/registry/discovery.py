"""Finding agents and tools: in a folder or package, under an entry point, or by reference."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from agents import Agent

from app.domain.errors import ConfigurationError
from app.domain.models.agents import AgentSpec
from app.infrastructure.providers.openai.registry.agents import AgentSource
from app.infrastructure.providers.openai.registry.modules import (
    folder_modules,
    import_named,
    load_attribute,
    module_folder,
)
from app.infrastructure.providers.openai.registry.tools import check_tool_function

ENTRY_POINT_GROUP = "durable_agents.agents"
"""The entry points under which installed packages offer agents."""


def discover_folder(package_or_path: str | Path) -> list[AgentSpec]:
    """Return the AgentSpecs at the top level of a package's or folder's modules, in the order of the modules' names.

    One that several modules name counts once, for the first. A relative `prompt_path` starts at its module's folder.

    Raises:
        ConfigurationError: the folder does not exist, or a module cannot be imported; the message names the file.
    """
    found: dict[int, AgentSpec] = {}
    for module in folder_modules(package_or_path):
        for value in vars(module).values():
            if isinstance(value, AgentSpec) and id(value) not in found:
                found[id(value)] = _located(value, module)
    return list(found.values())


def discover_entry_points(group: str = ENTRY_POINT_GROUP) -> list[AgentSource]:
    """Return the agents that installed packages offer, by the entry points' names.

    An entry point leads to an SDK Agent, an AgentSpec, or a list of these.

    Raises:
        ConfigurationError: an entry point cannot be loaded, or leads to something else; the message names its package.
    """
    points = sorted(entry_points(group=group), key=lambda point: (point.name, point.value))
    return [agent for point in points for agent in _entry_point_agents(point)]


def load_objects(references: Sequence[str]) -> list[AgentSource]:
    """Return the agents named by `package.module:attribute`: SDK Agents, AgentSpecs, or lists of these, in order.

    Raises:
        ConfigurationError: a reference that cannot be read or imported, or that leads to something else.
    """
    return [agent for reference in references for agent in _agents_in(*load_attribute(reference), shown=reference)]


def discover_tools(package_or_path: str | Path) -> dict[str, Callable[..., Any]]:
    """Return the public functions that a package's or folder's modules define, by name.

    Every one of them is a tool: an async or plain function with a docstring and a type for each parameter. A name that
    begins with `_` keeps a function, or a whole module, out.

    Raises:
        ConfigurationError: a module cannot be imported, a function lacks types or a docstring, or two share a name.
    """
    tools: dict[str, Callable[..., Any]] = {}
    for module in folder_modules(package_or_path):
        if module.__name__.rpartition(".")[2].startswith("_"):
            continue
        where = f"'{module.__file__ or module.__name__}'"
        for name, function in _public_functions(module):
            check_tool_function(function, name, where)
            if name in tools:
                raise ConfigurationError(f"{where}: another file defines the tool '{name}' too. Rename one of them.")
            tools[name] = function
    return tools


def _public_functions(module: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, value in vars(module).items():
        if not name.startswith("_") and inspect.isfunction(value) and value.__module__ == module.__name__:
            yield name, value


def _located(spec: AgentSpec, module: ModuleType) -> AgentSpec:
    if spec.prompt_path is None or spec.prompt_path.is_absolute():
        return spec
    return dataclasses.replace(spec, prompt_path=module_folder(module) / spec.prompt_path)


def _entry_point_agents(point: EntryPoint) -> list[AgentSource]:
    package = point.dist.name if point.dist is not None else "an installed package"
    shown = f"the entry point '{point.name}' of {package}"
    import_named(point.module, shown)
    if not point.attr:
        raise ConfigurationError(f"'{point.value}', {shown}, names no object. Write it as 'package.module:attribute'.")
    return _agents_in(*load_attribute(f"{point.module}:{point.attr}"), shown=shown)


def _agents_in(found: object, module: ModuleType, *, shown: str) -> list[AgentSource]:
    values = cast("Sequence[object]", found) if isinstance(found, list | tuple) else [found]
    agents: list[AgentSource] = []
    for value in values:
        if isinstance(value, AgentSpec):
            agents.append(_located(value, module))
        elif isinstance(value, Agent):
            agents.append(cast("Agent[Any]", value))
        else:
            raise ConfigurationError(
                f"'{shown}' leads to a {type(value).__name__}. Let it name an Agent, an AgentSpec, or a list of these."
            )
    return agents
