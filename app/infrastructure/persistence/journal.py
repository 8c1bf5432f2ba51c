"""The run journal over the shared engine, for SQLite and PostgreSQL; its subjects have a module each.

`journal_starts`: how runs begin and change hands. `journal_writes`: what an execution writes. `journal_requests`:
what others ask of a run. `journal_reads`: events, results, lists.
"""

from app.infrastructure.persistence.journal_reads import RunReads
from app.infrastructure.persistence.journal_requests import RunRequests
from app.infrastructure.persistence.journal_starts import RunStarts
from app.infrastructure.persistence.journal_writes import RunWrites


class SqlRunJournal(RunStarts, RunWrites, RunRequests, RunReads):
    """RunJournal in SQL: each method is one transaction, each write of an execution is fenced."""
