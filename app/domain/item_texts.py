"""What people read of a history item."""

from collections.abc import Mapping
from typing import Any, Literal

from app.domain.item_ids import item_kind

Speaker = Literal["user", "assistant"]


def content_text(content: Any) -> str:
    """Return the text of a message's content; pictures and files are named, not shown."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in content if isinstance(content, list) else []:
        kind = str(part.get("type", "")) if isinstance(part, Mapping) else ""
        texts.append(str(part.get("text", "")) if kind.endswith("text") else f"[{kind.removeprefix('input_')}]")
    return "\n".join(texts)


def spoken(item: Mapping[str, Any]) -> tuple[Speaker, str] | None:
    """Return who says what in an item; None: it is no message of a user or an assistant, or an empty one."""
    role = item.get("role")
    if item_kind(item) != "message" or role not in {"user", "assistant"}:
        return None
    text = content_text(item.get("content"))
    return ("user" if role == "user" else "assistant", text) if text else None
