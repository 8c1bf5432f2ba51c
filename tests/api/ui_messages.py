"""A reader of the AI SDK's UI message stream: as strict as the package's own; it builds the same message."""

import json
from typing import Any

FIELDS: dict[str, tuple[set[str], set[str]]] = {
    # required, optional
    "start": ({"messageId", "messageMetadata"}, set()),
    "start-step": (set(), set()),
    "finish-step": (set(), set()),
    "text-start": ({"id"}, set()),
    "text-delta": ({"id", "delta"}, set()),
    "text-end": ({"id"}, {"providerMetadata"}),
    "reasoning-start": ({"id"}, set()),
    "reasoning-delta": ({"id", "delta"}, set()),
    "reasoning-end": ({"id"}, {"providerMetadata"}),
    "tool-input-start": ({"toolCallId", "toolName"}, {"providerExecuted", "toolMetadata"}),
    "tool-input-available": ({"toolCallId", "toolName", "input"}, {"providerExecuted", "toolMetadata"}),
    "tool-input-error": ({"toolCallId", "toolName", "input", "errorText"}, {"providerExecuted"}),
    "tool-output-available": ({"toolCallId", "output"}, {"preliminary"}),
    "tool-output-denied": ({"toolCallId"}, set()),
    "tool-approval-request": ({"approvalId", "toolCallId"}, set()),
    "source-url": ({"sourceId", "url"}, {"title"}),
    "message-metadata": ({"messageMetadata"}, set()),
    "error": ({"errorText"}, set()),
    "abort": ({"reason"}, set()),
    "finish": (set(), {"finishReason", "messageMetadata"}),
}


def parts_of(body: bytes) -> list[dict[str, Any]]:
    """Read a whole stream: every frame is a known part, and the last one is `[DONE]`."""
    frames = [frame for frame in body.decode().split("\n\n") if frame and not frame.startswith(":")]
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames), frames
    assert frames[-1] == "data: [DONE]", frames[-3:]
    parts = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-1]]
    for part in parts:
        required, optional = FIELDS[part["type"]]
        assert required <= part.keys() - {"type"} <= required | optional, part
    return parts


class UiMessage:
    """The message that the parts build; what the package would refuse fails here, too."""

    def __init__(self) -> None:
        self.id = ""
        self.metadata: dict[str, Any] = {}
        self.parts: list[dict[str, Any]] = []
        self.finish: str | None = None
        self._open: dict[str, dict[str, Any]] = {}

    def read(self, parts: list[dict[str, Any]]) -> "UiMessage":
        """Add parts."""
        for part in parts:
            self._add(part)
        assert not self._open
        return self

    def kinds(self) -> list[str]:
        """The types of the message's parts."""
        return [part["type"] for part in self.parts]

    def texts(self, kind: str = "text") -> list[str]:
        """The texts of a kind that are not void."""
        return [part["text"] for part in self.parts if part["type"] == kind and not part.get("void")]

    def tool(self, call_id: str) -> dict[str, Any]:
        """A call."""
        return next(part for part in reversed(self.parts) if part.get("toolCallId") == call_id)

    def sent(self) -> dict[str, Any]:
        """The message as a client sends it back."""
        return {"id": self.id, "role": "assistant", "parts": self.parts, "metadata": self.metadata}

    def _add(self, part: dict[str, Any]) -> None:
        kind = part["type"]
        self.metadata |= part.get("messageMetadata") or {}
        match kind:
            case "start":
                self.id = part["messageId"]
            case "start-step":
                self.parts.append({"type": "step-start"})
            case "finish-step":
                assert not self._open, "a part is longer than its step"
            case "text-start" | "reasoning-start":
                assert part["id"] not in self._open
                self._open[part["id"]] = {"type": kind.partition("-")[0], "text": "", "id": part["id"]}
                self.parts.append(self._open[part["id"]])
            case "text-delta" | "reasoning-delta":
                self._open[part["id"]]["text"] += part["delta"]
            case "text-end" | "reasoning-end":
                ended = self._open.pop(part["id"])
                if "providerMetadata" in part:
                    assert part["providerMetadata"] == {"durableAgents": {"void": True}}
                    ended["void"] = True
            case "finish":
                self.finish = part.get("finishReason")
            case "source-url":
                self.parts.append(part)
            case "error" | "abort":
                self.parts.append(part)
            case "message-metadata":
                pass
            case _:
                self._call(kind, part)

    def _call(self, kind: str, part: dict[str, Any]) -> None:
        call_id = part["toolCallId"]
        last_step = max((n for n, one in enumerate(self.parts) if one["type"] == "step-start"), default=0)
        if kind.startswith("tool-input"):
            known = [one for one in self.parts[last_step:] if one.get("toolCallId") == call_id]
            if not known:
                known = [{"type": f"tool-{part['toolName']}", "toolCallId": call_id}]
                self.parts += known
            call = known[0]
            states = {"tool-input-start": "input-streaming", "tool-input-available": "input-available"}
            call["state"] = states.get(kind, "output-error")
            call |= {name: part[name] for name in ("input", "providerExecuted", "errorText") if name in part}
            return
        call = self.tool(call_id)
        match kind:
            case "tool-approval-request":
                call |= {"state": "approval-requested", "approval": {"id": part["approvalId"]}}
            case "tool-output-denied":
                call["state"] = "output-denied"
            case _:
                call |= {"state": "output-available", "output": part["output"]}
                call["preliminary"] = part.get("preliminary", False)
