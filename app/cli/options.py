"""Options as groups: a command takes dataclasses, and typer sees their fields as its options."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast, get_type_hints

import typer

from app.cli.failures import reported


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which database a command works on, and how much it tells."""

    database: Annotated[
        str | None, typer.Option("--database", metavar="URL", help="Database to use instead of DATABASE_URL.")
    ] = None
    debug: Annotated[bool, typer.Option("--debug", help="Log everything, and show the traceback of an error.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """For whom a command works."""

    organization: Annotated[str, typer.Option("--organization", metavar="ID", help="Organization to work for.")] = (
        "default"
    )
    user: Annotated[
        str | None, typer.Option("--user", metavar="ID", help="User to work for; none: the whole organization.")
    ] = None


Command = Callable[..., int | None]
"""Does the work and returns the exit code; None is 0."""


def command(app: typer.Typer, name: str) -> Callable[[Command], Command]:
    """Register a command whose parameters are dataclasses; their fields, in order, are its arguments and options.

    Errors end as one line and an exit code (see `failures`), unless a group's `debug` is true.
    """

    def register(function: Command) -> Command:
        groups = cast("dict[str, type[Any]]", {k: v for k, v in get_type_hints(function).items() if k != "return"})

        def flattened(**values: Any) -> int | None:
            given = {parameter: _filled(group, values) for parameter, group in groups.items()}
            with reported(debug=bool(values.get("debug", False))):
                return function(**given)

        parameters = [parameter for group in groups.values() for parameter in _parameters(group)]
        seen_by_typer = cast("Any", flattened)
        seen_by_typer.__signature__ = inspect.Signature(parameters)
        seen_by_typer.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, help=inspect.getdoc(function))(flattened)
        return function

    return register


def _filled(group: type[Any], values: Mapping[str, Any]) -> Any:
    return group(**{field.name: values[field.name] for field in dataclasses.fields(group)})


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=hints[field.name]
        )
        for field in dataclasses.fields(group)
    ]


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
