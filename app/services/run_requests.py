"""Checks a run request before anything is written: wrong types, sizes and ranges, each named."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast, get_args

import msgspec

from app.domain.errors import InvalidInput
from app.domain.identifiers import check_organization
from app.domain.models.conversations import Item
from app.domain.models.runs import OnBusy, RunOptions, RunRequest

MAX_TURNS = 1_000
MAX_TIMEOUT_S = 24 * 3600
MAX_HISTORY_ITEMS = 10_000
MAX_NAME_CHARS = 255
ROLES = ("user", "assistant", "system", "developer")


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What one run may ask for, and what it gets when it asks for nothing."""

    max_input_bytes: int = 1_000_000
    """Of the input as JSON."""
    max_metadata_bytes: int = 16_384
    """Of metadata, and of context variables, each."""
    history_items: int = 100
    """For a run that sets none."""
    sticky_agent: bool = False
    """Whether the agent that answered last gets the next input of its conversation."""
    on_busy: OnBusy = "queue"
    """For an input that says nothing itself."""


def checked_input(request: RunRequest, limits: RunLimits) -> tuple[Item, ...]:
    """Return the input as items.

    Raises:
        InvalidInput: the input is empty, too large, or no list of JSON objects; `param` names what is wrong.
    """
    given: object = request.input
    if isinstance(given, str):
        if not given.strip():
            raise InvalidInput("The input is empty.", param="input")
        items: list[Item] = [{"role": "user", "content": given}]
    elif isinstance(given, list | tuple) and given:
        items = [_checked_item(item, index) for index, item in enumerate(cast("Sequence[object]", given))]
    else:
        raise InvalidInput("The input is a text or a list of input items.", param="input")
    if _size(items, "input") > limits.max_input_bytes:
        raise InvalidInput(f"The input is larger than {limits.max_input_bytes} bytes.", param="input")
    return tuple(items)


def check_request(request: RunRequest, limits: RunLimits) -> None:
    """Check everything but the input.

    Raises:
        InvalidInput: `param` names what is wrong.
    """
    check_organization(request.caller.organization_id)
    user_id = request.caller.user_id
    if user_id is not None:
        _check_name("user_id", user_id)
    if request.idempotency_key is not None:
        _check_name("idempotency_key", request.idempotency_key)
    if request.on_busy is not None and request.on_busy not in get_args(OnBusy):
        raise InvalidInput(f"on_busy is one of {', '.join(get_args(OnBusy))}.", param="on_busy")
    options = request.options
    if options.model is not None:
        _check_name("model", options.model)
    if options.max_turns is not None:
        _check_range("max_turns", options.max_turns, 1, MAX_TURNS, whole=True)
    if options.timeout_s is not None:
        _check_range("timeout_s", options.timeout_s, 0.001, MAX_TIMEOUT_S, whole=False)
    if options.history_items is not None:
        _check_range("history_items", options.history_items, 0, MAX_HISTORY_ITEMS, whole=True)
    if options.output_type is not None and options.output_schema is not None:
        raise InvalidInput("Give an output type or an output schema, not both.", param="output_schema")
    if options.instructions is not None and (not isinstance(options.instructions, str) or not options.instructions):  # pyright: ignore[reportUnnecessaryIsInstance] - from JSON
        raise InvalidInput("Instructions are a text.", param="instructions")
    if _size([options.instructions, options.client_tools], "client_tools") > limits.max_input_bytes:
        raise InvalidInput(
            f"Tools and instructions are larger than {limits.max_input_bytes} bytes.", param="client_tools"
        )
    _check_mappings(options, limits)


def request_digest(request: RunRequest) -> str:
    """Return a digest of what a start asks for, to tell a repeated request from another one under the same key."""
    options = request.options
    asked = {
        "input": request.input,
        "agent": request.agent,
        # A start that follows a run may find that it must do so in a copy of the conversation.
        "conversation": request.after_run_id or request.conversation_id,
        "stream": request.stream,
        "on_busy": request.on_busy,
        "output_type": None if options.output_type is None else str(options.output_type),
        **{field.name: getattr(options, field.name) for field in fields(options) if field.name != "output_type"},
    }
    # ASCII JSON in the order of keys: the same request gives the same text, whatever it holds.
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), default=dict)
    return hashlib.blake2b(text.encode(), digest_size=24).hexdigest()


def _checked_item(item: object, index: int) -> Item:
    if not isinstance(item, Mapping) or not all(isinstance(key, str) for key in item):
        raise InvalidInput(f"Input item {index} is not a JSON object.", param=f"input[{index}]")
    if "role" not in item and "type" not in item:
        raise InvalidInput(f"Input item {index} has neither a role nor a type.", param=f"input[{index}]")
    role = item.get("role")
    if role is not None and role not in ROLES:
        raise InvalidInput(
            f"Input item {index} has a role other than {', '.join(ROLES)}.", param=f"input[{index}].role"
        )
    if role is not None and not isinstance(item.get("content"), str | list):
        raise InvalidInput(f"Input item {index} needs a text or parts as content.", param=f"input[{index}].content")
    return {str(key): value for key, value in item.items()}


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_CHARS or not value.isprintable():
        raise InvalidInput(f"{name} is a text of 1 to {MAX_NAME_CHARS} printable characters.", param=name)


def _check_range(name: str, value: Any, least: float, most: float, *, whole: bool) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        raise InvalidInput(f"{name} is a number from {least} to {most}.", param=name)


def _check_mappings(options: RunOptions, limits: RunLimits) -> None:
    for name in ("model_settings", "variables", "metadata"):
        value = getattr(options, name)
        if not isinstance(value, Mapping):
            raise InvalidInput(f"{name} is a JSON object.", param=name)
        if _size(value, name) > limits.max_metadata_bytes:
            raise InvalidInput(f"{name} is larger than {limits.max_metadata_bytes} bytes.", param=name)


def _size(value: Any, name: str) -> int:
    try:
        return len(msgspec.json.encode(value))
    except UnicodeEncodeError:  # lone surrogates: legal JSON escapes, so measured by characters
        return len(str(value))
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise InvalidInput(f"{name} holds a value that is not JSON.", param=name) from error
