"""What clients ask of conversations: bodies, and their values checked one by one."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.api.errors import HttpError
from app.api.json_values import shallow
from app.api.openai.response_faults import wrong_type, wrong_value
from app.api.openai.response_ids import parsed_response_id
from app.bootstrap import Container
from app.domain.models.conversations import Caller

MAX_METADATA_PAIRS: Final = 16
MAX_METADATA_KEY_CHARS: Final = 64
MAX_METADATA_VALUE_CHARS: Final = 512
MAX_TITLE_CHARS: Final = 255

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")

JsonList = Annotated[list[Any], AfterValidator(shallow)]
Metadata = Annotated[
    dict[str, Any], Field(description="At most 16 pairs, whose values are text of at most 512 characters.")
]
Title = Annotated[str, Field(min_length=1, max_length=MAX_TITLE_CHARS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ConversationCreate(_Body):
    """What a conversation begins with. The platform has `items` and `metadata`."""

    items: JsonList | None = Field(default=None, description="At most 20.")
    metadata: Metadata | None = None
    title: Title | None = Field(default=None, description="Unset: the beginning of the user's first message.")
    agent: str | None = Field(default=None, description="Who answers runs that name nobody; unset: the default agent.")


class ConversationUpdate(_Body):
    """What is changed; the rest stays. The platform has `metadata`."""

    metadata: Metadata | None = Field(default=None, description="Replaces all there is; null: none.")
    title: Title | None = Field(default=None, description="null: none.")


class ItemsCreate(_Body):
    """Items to be added."""

    items: JsonList = Field(description="At most 20.")


class ForkCreate(_Body):
    """Where a conversation is forked; with none of them at its end."""

    after_item_id: str | None = Field(default=None, description="The last item that is copied.")
    after_run_id: str | None = Field(default=None, description="The run behind whose answer it is.")
    after_response_id: str | None = Field(default=None, description="The response of that run.")


class ShareCreate(_Body):
    """How long a link lasts."""

    expires_in_s: int = Field(default=7 * 24 * 3600, ge=1, le=366 * 24 * 3600)


def checked_metadata(given: Mapping[str, Any] | None) -> dict[str, str]:
    """Return metadata as they are kept.

    Raises:
        HttpError: there are too many, or one is no string or too long (400).
    """
    metadata = given or {}
    if len(metadata) > MAX_METADATA_PAIRS:
        raise wrong_value("metadata", f"at most {MAX_METADATA_PAIRS} pairs are taken.")
    for key, value in metadata.items():
        param = f"metadata.{key[:MAX_METADATA_KEY_CHARS]}"
        if not isinstance(value, str):
            raise wrong_type(param, "a string", value)
        if len(key) > MAX_METADATA_KEY_CHARS:
            raise wrong_value(param, f"a key is at most {MAX_METADATA_KEY_CHARS} characters long.")
        if len(value) > MAX_METADATA_VALUE_CHARS:
            raise wrong_value(param, f"a value is at most {MAX_METADATA_VALUE_CHARS} characters long.")
    return cast("dict[str, str]", dict(metadata))


def checked_title(title: str | None) -> str | None:
    """Return a title as it is kept.

    Raises:
        HttpError: it is blank, or holds characters that no text column takes (400).
    """
    if title is not None and (not title.strip() or _UNSTORABLE.search(title) is not None):
        raise wrong_value("title", "it must say something, in characters of Unicode but NUL.")
    return title


def changes_of(body: ConversationUpdate) -> dict[Literal["title", "metadata"], Any]:
    """Return what an update sets.

    Raises:
        HttpError: a value is wrong, or there is none (400).
    """
    changes: dict[Literal["title", "metadata"], Any] = {}
    if "metadata" in body.model_fields_set:
        changes["metadata"] = checked_metadata(body.metadata)
    if "title" in body.model_fields_set:
        changes["title"] = checked_title(body.title)
    if not changes:
        raise HttpError(
            400, "missing_required_parameter", "Missing required parameter: 'metadata' or 'title'.", param="metadata"
        )
    return changes


async def fork_run(container: Container, caller: Caller, body: ForkCreate) -> str | None:
    """Return the run behind which a conversation is forked, however it is named; None: it is not forked behind one.

    Raises:
        HttpError: several points are named (400), or the response cannot be (404).
    """
    named = [name for name in ("after_item_id", "after_run_id", "after_response_id") if getattr(body, name) is not None]
    if len(named) > 1:
        raise wrong_value(named[1], f"it cannot stand beside {named[0]}.")
    if body.after_response_id is None:
        return body.after_run_id
    response = parsed_response_id(body.after_response_id, "after_response_id")
    if await container.runs.approvals(caller, response.run_id, limit=1):
        raise wrong_value(
            "after_response_id", "its run has waited for approvals and is several responses: name after_run_id."
        )
    return response.run_id
