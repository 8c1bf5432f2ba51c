"""`durable-agents chat`: a conversation in the terminal."""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.answers import FollowedRun, follower
from app.cli.chat_input import EditedLines, LineSource, PlainLines
from app.cli.failures import WAITING
from app.cli.options import Owner, Place, command
from app.cli.output import notice, print_line
from app.cli.questions import Approver, approver_at_terminal
from app.cli.run_ends import Commands, output_text, tell_waiting
from app.cli.run_reports import usage_line
from app.cli.serve import model_of
from app.cli.system import system
from app.domain.errors import AppError
from app.domain.models.conversations import Caller
from app.domain.models.runs import RunRequest, RunStatus

if TYPE_CHECKING:
    from app.bootstrap import Container

HELP = (
    "/new          begin another conversation",
    "/agent KEY    talk to another agent, in the same conversation",
    "/help         this",
    "/exit         leave; Ctrl-D does too",
    "Alt-Enter begins a new line, Ctrl-C stops an answer.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatStart:
    """Whom to talk to, and where to go on."""

    agent: Annotated[str | None, typer.Argument(help="Key of the agent; none: the default agent.")] = None
    conversation: Annotated[
        str | None, typer.Option("--conversation", metavar="ID", help="Go on with this conversation.")
    ] = None


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "chat")(chat)


def chat(start: ChatStart, owner: Owner, place: Place) -> int:
    """Talk to an agent; answers go to standard output, tool calls and costs to standard error.

    Ctrl-C stops an answer, Ctrl-D or /exit leaves. Reads plain lines when standard input is no terminal; an answer that
    needs a person's approval then ends the chat with exit code 3.
    """
    return asyncio.run(_chat(start, owner, place))


async def _chat(start: ChatStart, owner: Owner, place: Place) -> int:
    async with system(place) as container:
        chatting = Chat(container, start, approver_at_terminal(), Commands(owner, place))
        await chatting.begin()
        await chatting.talk(_line_source())
        chatting.end()
        return WAITING if chatting.waits else 0


def _line_source() -> LineSource:
    if sys.stdin.isatty():
        return EditedLines(Path(typer.get_app_dir("durable-agents")) / "chat-history")
    return PlainLines(sys.stdin.fileno())


class Chat:
    """A conversation with an agent, message by message."""

    def __init__(self, container: "Container", start: ChatStart, approver: Approver | None, commands: Commands) -> None:
        """Talk through the container's services for the owner that `commands` name; `approver` None: nobody to ask."""
        self._container = container
        self._approver = approver
        self._commands = commands
        self._caller = Caller(commands.owner.organization, commands.owner.user)
        self._agent = start.agent
        self._conversation_id = start.conversation
        self.waits = False
        """Whether the conversation's last run is left waiting for approvals: nothing can be said until they come."""

    async def begin(self) -> None:
        """Say who answers, and go on with a run that waits for approvals.

        Raises:
            UnknownAgent: no agent has that key.
            ConversationNotFound: it does not exist for this caller.
        """
        if self._conversation_id is not None:
            view = await self._container.conversations.show(self._caller, self._conversation_id)
            self._agent = self._agent or view.conversation.agent
            notice(f"Going on with {self._conversation_id}, {len(view.messages)} messages")
        self._agent = (await self._container.catalog.agent(self._agent)).agent.key
        notice(f"{self._agent}, {model_of(self._container)}. /help lists commands.")
        await self._go_on()

    async def talk(self, lines: LineSource) -> None:
        """Answer every message until the input ends, the user leaves, or a run is left waiting."""
        while not self.waits:
            try:
                line = await lines.line(f"{self._agent}> ")
            except KeyboardInterrupt:
                continue
            if line is None:
                return
            said = line.strip()
            try:
                if said.startswith("/"):
                    if not await self._obey(said):
                        return
                elif said:
                    await self._answer(line)
            except AppError as error:
                notice(f"Error: {error.public_message}", style="31")

    def end(self) -> None:
        """Say how to come back."""
        if self._conversation_id is not None:
            notice(f"Go on with: durable-agents chat --conversation {self._conversation_id}")

    async def _answer(self, text: str) -> None:
        request = RunRequest(
            caller=self._caller,
            input=text,
            agent=self._agent,
            conversation_id=self._conversation_id,
            stream=True,
        )
        following = follower(self._container.runs, self._caller, self._approver, stream=True)
        self._tell_end(await following.start(request))

    async def _go_on(self) -> None:
        """Have the approvals decided that the conversation's first unfinished run waits for."""
        if self._conversation_id is None:
            return
        waiting, _ = await self._container.runs.list(
            self._caller, statuses=(RunStatus.WAITING,), conversation_id=self._conversation_id
        )
        for run in waiting:  # at most one: the others of a conversation are queued behind it
            after = await self._container.journal.last_sequence(self._caller, run.id)
            following = follower(self._container.runs, self._caller, self._approver, stream=True)
            self._tell_end(await following.follow(run.id, after - 1))

    def _tell_end(self, followed: FollowedRun) -> None:
        result = followed.result
        self._conversation_id = result.conversation_id
        if result.status is RunStatus.WAITING:
            self.waits = True
            tell_waiting(result.run_id, result.approvals, self._commands)
            return
        if result.error is not None:
            notice(f"Error: {result.error.message}", style="31")
        elif not followed.wrote:
            print_line(output_text(result))
        notice(usage_line(result))

    async def _obey(self, said: str) -> bool:
        """Do what a slash command says; False to leave."""
        name, _, argument = said.partition(" ")
        match name:
            case "/exit" | "/quit":
                return False
            case "/new":
                self._conversation_id = None
                notice("A new conversation.")
            case "/agent":
                found = await self._container.catalog.agent(argument.strip() or None)
                self._agent = found.agent.key
                notice(f"{found.agent.key}: {found.agent.description}")
            case "/help":
                for line in HELP:
                    notice(line)
            case _:
                notice(f"There is no command {name}. /help lists them.")
        return True
