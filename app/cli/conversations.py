"""`durable-agents conversations`: list, show, search, export, delete."""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from app.cli.conversation_export import export_file, write_parts
from app.cli.failures import USAGE, CommandFailed
from app.cli.options import Owner, Place, command
from app.cli.output import Column, moment, notice, one_line, print_json, print_line, print_table
from app.cli.system import system
from app.domain.models.conversations import Caller, Conversation, Message, MessageHit

if TYPE_CHECKING:
    from app.services.conversations import ConversationView

Identifier = Annotated[str, typer.Argument(metavar="ID", help="The conversation, such as conv_0190….")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100, help="How many at most.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which conversations are listed."""

    limit: Limit = 20
    after: Annotated[str | None, typer.Option("--after", metavar="ID", help="Those older than this one.")] = None
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Which conversation is shown."""

    conversation: Identifier
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is searched for."""

    query: Annotated[str, typer.Argument(help="Words that a message holds, all of them.")]
    limit: Limit = 20
    as_json: JsonFlag = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is exported, how and where to."""

    conversation: Identifier
    format: Annotated[
        Literal["jsonl", "markdown"],
        typer.Option("--format", help="jsonl: the items as the model sees them; markdown: the messages."),
    ] = "jsonl"
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="File to write; none: standard output.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What is deleted."""

    conversations: Annotated[list[str], typer.Argument(metavar="ID...", help="The conversations.")]
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="List, show, search, export and delete conversations.", no_args_is_help=True)
    command(group, "ls")(ls)
    command(group, "show")(show)
    command(group, "search")(search)
    command(group, "export")(export)
    command(group, "rm")(rm)
    app.add_typer(group, name="conversations")


def ls(page: Page, owner: Owner, place: Place) -> None:
    """List conversations, newest first."""

    async def read() -> tuple[list[Conversation], bool]:
        async with system(place) as container:
            found, more = await container.conversations.list(_caller(owner), limit=page.limit, after=page.after)
            return list(found), more

    found, more = asyncio.run(read())
    if page.as_json:
        print_json({"data": [_conversation_object(conversation) for conversation in found], "has_more": more})
        return
    columns = (
        Column("CONVERSATION"),
        Column("USER"),
        Column("AGENT"),
        Column("MESSAGES", numbers=True),
        Column("UPDATED"),
        Column("TITLE"),
    )
    print_table(columns, [_row(conversation) for conversation in found])
    if more:
        notice(f"There are more: --after {found[-1].id}")


def show(shown: Shown, owner: Owner, place: Place) -> None:
    """Show a conversation with its messages."""

    async def read() -> "ConversationView":
        async with system(place) as container:
            return await container.conversations.show(_caller(owner), shown.conversation)

    view = asyncio.run(read())
    if shown.as_json:
        messages = [_message_object(message) for message in view.messages]
        print_json({**_conversation_object(view.conversation), "messages": messages})
        return
    print_line(one_line(view.conversation.title or view.conversation.id))
    for message in view.messages:
        print_line(f"\n{message.agent or message.role}, {moment(message.created_at)}\n{message.text}")


def search(query: Query, owner: Owner, place: Place) -> None:
    """Find messages that hold all words of a query, best first."""

    async def read() -> list[MessageHit]:
        async with system(place) as container:
            return list(await container.conversations.search(_caller(owner), query.query, limit=query.limit))

    hits = asyncio.run(read())
    if query.as_json:
        print_json({"data": [_hit_object(hit) for hit in hits]})
        return
    columns = (Column("CONVERSATION"), Column("FROM"), Column("AT"), Column("MESSAGE"))
    rows = [
        (hit.conversation_id, hit.message.role, moment(hit.message.created_at), one_line(hit.message.text, 120))
        for hit in hits
    ]
    print_table(columns, rows)


def export(export: Export, owner: Owner, place: Place) -> None:
    """Write a conversation as JSON Lines or Markdown."""

    async def write_all(file: TextIO) -> int:
        async with system(place) as container:
            service = container.conversations
            parts = service.export_jsonl if export.format == "jsonl" else service.export_markdown
            return await write_parts(await parts(_caller(owner), export.conversation), file)

    with export_file(export.output) as file:
        count = asyncio.run(write_all(file))
    if export.output is not None:
        # Markdown begins with a heading of its own.
        told = f"{count} items" if export.format == "jsonl" else f"{max(0, count - 1)} messages"
        notice(f"{export.output}: {told}")


def rm(removal: Removal, owner: Owner, place: Place) -> None:
    """Delete conversations with their history; what they used stays on record."""
    if not removal.yes:
        _ask(removal.conversations)

    async def delete_all() -> None:
        async with system(place) as container:
            for conversation_id in removal.conversations:
                await container.conversations.delete(_caller(owner), conversation_id)
                print_line(f"deleted {conversation_id}")

    asyncio.run(delete_all())


def _ask(conversations: list[str]) -> None:
    if not sys.stdin.isatty():
        raise CommandFailed("Nobody can be asked whether to delete. Add --yes.", USAGE)
    what = conversations[0] if len(conversations) == 1 else f"{len(conversations)} conversations"
    typer.confirm(f"Delete {what} for good?", abort=True, err=True)


def _caller(owner: Owner) -> Caller:
    return Caller(owner.organization, owner.user)


def _row(conversation: Conversation) -> tuple[str, ...]:
    return (
        conversation.id,
        conversation.user_id or "",
        conversation.last_agent or conversation.agent or "",
        str(conversation.message_count),
        moment(conversation.updated_at),
        one_line(conversation.title or "", 60),
    )


def _conversation_object(conversation: Conversation) -> Mapping[str, Any]:
    return {
        "id": conversation.id,
        "organization_id": conversation.organization_id,
        "user_id": conversation.user_id,
        "agent": conversation.agent,
        "last_agent": conversation.last_agent,
        "title": conversation.title,
        "metadata": dict(conversation.metadata),
        "run_count": conversation.run_count,
        "message_count": conversation.message_count,
        "created_at": conversation.created_at.isoformat(),
        "updated_at": conversation.updated_at.isoformat(),
    }


def _message_object(message: Message) -> Mapping[str, Any]:
    return {
        "position": message.position,
        "role": message.role,
        "text": message.text,
        "run_id": message.run_id,
        "agent": message.agent,
        "created_at": message.created_at.isoformat(),
    }


def _hit_object(hit: MessageHit) -> Mapping[str, Any]:
    return {"conversation_id": hit.conversation_id, "title": hit.title, "message": _message_object(hit.message)}
