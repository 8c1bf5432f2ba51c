"""Messages of a chat completion as input items of a run, in the same order and with the same meaning."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from app.api.openai.response_faults import missing, path_of, refused, unknown, wrong_type, wrong_value
from app.domain.models.conversations import Item

MAX_MESSAGES: Final = 10_000

_ROLES: Final = ("assistant", "developer", "system", "tool", "user")
_ASSISTANT_FIELDS: Final = ("role", "content", "refusal", "tool_calls", "annotations")
_NAME: Final = "runs keep no names of participants: write the name into the content."


class ChatInput:
    """The messages of a request: checked one by one, then read as the input of one run."""

    def __init__(self, given: object) -> None:
        """Check what stands under `messages`.

        Raises:
            HttpError: 400; `param` is the path of what is wrong.
        """
        if given is None:
            raise missing("messages")
        if not isinstance(given, list):
            raise wrong_type("messages", "an array of messages", given)
        entries = cast("list[object]", given)
        if not 1 <= len(entries) <= MAX_MESSAGES:
            raise wrong_value("messages", f"1 to {MAX_MESSAGES} messages are needed.")
        self._messages = [_Message(entry, f"messages[{index}]") for index, entry in enumerate(entries)]

    def whole(self) -> list[Item]:
        """Return the items of all messages.

        Raises:
            HttpError: a tool's output has no call, or a call has no output (400).
        """
        _check_pairs(self._messages, continues=False)
        return self._items(self._messages)

    def kept(self) -> tuple[str | None, list[Item]]:
        """Return what begins a conversation that is kept: its leading instructions, and the items of all the rest.

        Raises:
            HttpError: as `whole`, or there is nothing but instructions (400).
        """
        _check_pairs(self._messages, continues=False)
        leading = self._leading()
        return self._instructions(leading), self._some(self._messages[leading:])

    def new(self) -> tuple[str | None, list[Item]]:
        """Return what goes on with a conversation: the leading instructions, and what follows the last answer.

        Raises:
            HttpError: nothing follows it, or a tool's output has no call (400).
        """
        _check_pairs(self._messages, continues=True)
        leading = self._leading()
        answers = [index for index, message in enumerate(self._messages) if message.role == "assistant"]
        return self._instructions(leading), self._some(self._messages[max([leading, *(at + 1 for at in answers)]) :])

    def _leading(self) -> int:
        others = (index for index, message in enumerate(self._messages) if message.role not in {"system", "developer"})
        return next(others, len(self._messages))

    def _instructions(self, leading: int) -> str | None:
        return "\n\n".join(text for message in self._messages[:leading] if (text := message.text)) or None

    def _some(self, messages: Sequence["_Message"]) -> list[Item]:
        items = self._items(messages)
        if not items:
            raise wrong_value("messages", "there is no new message: what follows the last answer is the new input.")
        return items

    @staticmethod
    def _items(messages: Sequence["_Message"]) -> list[Item]:
        return [item for message in messages for item in message.items]


class _Message:
    """One message."""

    def __init__(self, entry: object, param: str) -> None:
        if not isinstance(entry, Mapping):
            raise wrong_type(param, "an object", entry)
        message = cast("Mapping[str, Any]", entry)
        role = message.get("role")
        if role is None:
            raise missing(f"{param}.role")
        if role == "function":
            raise refused(f"{param}.role", "it is deprecated: use messages with the role 'tool'.")
        if not isinstance(role, str) or role not in _ROLES:
            raise wrong_value(f"{param}.role", f"supported values are {', '.join(_ROLES)}.")
        if message.get("name") is not None:
            raise refused(f"{param}.name", _NAME)
        self.param = param
        self.role = role
        self.calls: list[str] = []
        """Ids of the calls that it asks for."""
        self.answers: str | None = None
        """The id of the call whose output it is."""
        self.items = self._read(message)

    @property
    def text(self) -> str:
        """Return its text, of a message that has nothing else."""
        content = self.items[0]["content"]
        return content if isinstance(content, str) else "".join(part["text"] for part in content)

    def _read(self, message: Mapping[str, Any]) -> list[Item]:
        param = self.param
        if self.role == "assistant":
            _only(message, param, *_ASSISTANT_FIELDS)
            return self._answer(message)
        if self.role == "tool":
            _only(message, param, "role", "content", "tool_call_id")
            self.answers = _text(message, "tool_call_id", param)
            output = _content(message, param, frozenset({"text"}))
            said = output if isinstance(output, str) else "".join(part["text"] for part in output)
            return [{"type": "function_call_output", "call_id": self.answers, "output": said}]
        _only(message, param, "role", "content")
        kinds = frozenset({"text", "image_url", "file", "input_audio"} if self.role == "user" else {"text"})
        return [{"role": self.role, "content": _content(message, param, kinds)}]

    def _answer(self, message: Mapping[str, Any]) -> list[Item]:
        param = self.param
        calls = [_call(call, at) for call, at in _entries(message.get("tool_calls"), f"{param}.tool_calls")]
        self.calls = [call["call_id"] for call in calls]
        refusal = message.get("refusal")
        if refusal is not None and not isinstance(refusal, str):
            raise wrong_type(f"{param}.refusal", "a string", refusal)
        if message.get("annotations") is not None:  # of an answer of ours that is given back; its text has the words
            _entries(message["annotations"], f"{param}.annotations")
        if message.get("content") is None and (calls or refusal):
            said: list[Item] = [] if refusal is None else [_said([_refusal(refusal)])]
            return [*said, *calls]
        content = _content(message, param, frozenset({"text", "refusal"}))
        if isinstance(content, str) and not refusal:
            return [*([{"role": "assistant", "content": content}] if content or not calls else []), *calls]
        parts = [_output_text(content)] if isinstance(content, str) else [_output_part(part) for part in content]
        return [_said([*parts, *([_refusal(refusal)] if refusal else [])]), *calls]


def _check_pairs(messages: Sequence[_Message], *, continues: bool) -> None:
    """Refuse outputs without a call and calls without an output: no model's endpoint would take them.

    `continues`: the calls of outputs before the first answer are in the conversation.
    """
    open_calls: dict[str, str] = {}
    in_conversation = continues
    for message in messages:
        if message.answers is not None:
            if open_calls.pop(message.answers, None) is None and not in_conversation:
                reason = "a message with the role 'tool' must answer one of the calls of the answer before it."
                raise wrong_value(f"{message.param}.tool_call_id", reason)
            continue
        _check_answered(open_calls)
        if message.role == "assistant":
            in_conversation = False
            open_calls = dict.fromkeys(message.calls, f"{message.param}.tool_calls")
            if len(open_calls) < len(message.calls):
                raise wrong_value(f"{message.param}.tool_calls", "two calls have the same id.")
    _check_answered(open_calls)


def _check_answered(open_calls: Mapping[str, str]) -> None:
    for param in open_calls.values():
        raise wrong_value(param, "each call must be answered by a message with the role 'tool' right after it.")


def _content(message: Mapping[str, Any], param: str, kinds: frozenset[str]) -> Any:
    content = message.get("content")
    if content is None:
        raise missing(f"{param}.content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong_type(f"{param}.content", "a string or an array of parts", content)
    if not content:
        raise wrong_value(f"{param}.content", "at least one part is needed.")
    return [_part(part, at, kinds) for part, at in _entries(content, f"{param}.content")]


def _part(part: Mapping[str, Any], param: str, kinds: frozenset[str]) -> dict[str, Any]:
    """Return a part as the Responses format has it."""
    kind = part.get("type")
    if kind is None:
        raise missing(f"{param}.type")
    if not isinstance(kind, str) or kind not in kinds:
        raise wrong_value(f"{param}.type", f"supported values are {', '.join(sorted(kinds))}.")
    if kind == "input_audio":
        raise refused(f"{param}.type", "agents take no audio: send its transcript.")
    if part.get("prompt_cache_breakpoint") is not None:
        raise refused(f"{param}.prompt_cache_breakpoint", "prompts are cached as prompt_cache_options say.")
    _only(part, param, "type", kind)
    if kind == "text":
        return {"type": "input_text", "text": _text(part, "text", param)}
    if kind == "refusal":
        return _refusal(_text(part, "refusal", param))
    inside = part.get(kind)
    if inside is None:
        raise missing(f"{param}.{kind}")
    if not isinstance(inside, Mapping):
        raise wrong_type(f"{param}.{kind}", "an object", inside)
    return (
        _picture(cast("Mapping[str, Any]", inside), f"{param}.{kind}")
        if kind == "image_url"
        else _file(cast("Mapping[str, Any]", inside), f"{param}.{kind}")
    )


def _picture(given: Mapping[str, Any], param: str) -> dict[str, Any]:
    _only(given, param, "url", "detail")
    detail = given.get("detail")
    if detail not in (None, "auto", "low", "high", "original"):
        raise wrong_value(f"{param}.detail", "supported values are auto, low, high and original.")
    return {"type": "input_image", "image_url": _text(given, "url", param), "detail": detail or "auto"}


def _file(given: Mapping[str, Any], param: str) -> dict[str, Any]:
    if given.get("file_id") is not None:
        raise refused(f"{param}.file_id", "files are not kept here: send the file's data.")
    _only(given, param, "file_data", "filename")
    part = {"type": "input_file", "file_data": _text(given, "file_data", param)}
    return part if given.get("filename") is None else {**part, "filename": _text(given, "filename", param)}


def _call(call: Mapping[str, Any], param: str) -> Item:
    kind = call.get("type")
    if kind is None:
        raise missing(f"{param}.type")
    if kind != "function":
        raise refused(f"{param}.type", "only calls of functions are supported.")
    _only(call, param, "id", "type", "function")
    function = call.get("function")
    if function is None:
        raise missing(f"{param}.function")
    if not isinstance(function, Mapping):
        raise wrong_type(f"{param}.function", "an object", function)
    inside = cast("Mapping[str, Any]", function)
    _only(inside, f"{param}.function", "name", "arguments")
    return {
        "type": "function_call",
        "call_id": _text(call, "id", param),
        "name": _text(inside, "name", f"{param}.function"),
        "arguments": _text(inside, "arguments", f"{param}.function"),
    }


def _said(parts: Sequence[dict[str, Any]]) -> Item:
    return {"type": "message", "role": "assistant", "status": "completed", "content": list(parts)}


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _output_part(part: dict[str, Any]) -> dict[str, Any]:
    return part if part["type"] == "refusal" else _output_text(part["text"])


def _refusal(text: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": text}


def _entries(given: object, param: str) -> list[tuple[Mapping[str, Any], str]]:
    """Return the objects of an array, each with its path; None is an empty one."""
    if given is None:
        return []
    if not isinstance(given, list):
        raise wrong_type(param, "an array", given)
    entries: list[tuple[Mapping[str, Any], str]] = []
    for index, entry in enumerate(cast("list[object]", given)):
        if not isinstance(entry, Mapping):
            raise wrong_type(f"{param}[{index}]", "an object", entry)
        entries.append((cast("Mapping[str, Any]", entry), f"{param}[{index}]"))
    return entries


def _only(given: Mapping[str, Any], param: str, *names: str) -> None:
    for name, value in given.items():
        if value is None or name in names:
            continue
        if name in {"audio", "function_call"}:
            raise refused(f"{param}.{name}", "it is not supported.")
        raise unknown(f"{param}.{path_of((name,))}")


def _text(given: Mapping[str, Any], name: str, param: str) -> str:
    value = given.get(name)
    if value is None:
        raise missing(f"{param}.{name}")
    if not isinstance(value, str):
        raise wrong_type(f"{param}.{name}", "a string", value)
    return value
