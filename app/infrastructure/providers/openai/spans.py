"""Keeps the SDK's spans with the run they belong to. Its own exporter, which posts to OpenAI, is off unless wanted."""

from typing import Any

from agents import add_trace_processor, set_trace_processors
from agents.tracing import Span, Trace, TracingProcessor
from agents.tracing.processors import default_processor

from app.infrastructure.providers.openai.context import ACTIVE_RUN
from app.infrastructure.providers.openai.recording import never_failing


class SpanCollector(TracingProcessor):
    """Adds each finished span to the recording of the run that the current task is part of; no I/O."""

    def on_trace_start(self, trace: Trace) -> None:
        """Nothing to do: a run is a trace."""

    def on_trace_end(self, trace: Trace) -> None:
        """Nothing to do."""

    def on_span_start(self, span: Span[Any]) -> None:
        """Nothing to do: a span is kept when it ends."""

    def on_span_end(self, span: Span[Any]) -> None:
        """Keep the span's shape: who, when, under what, and whether it failed; not its content."""
        active = ACTIVE_RUN.get()
        if active is None:
            return
        with never_failing("span"):
            data = span.span_data
            exported = data.export()
            active.recording.spans.append(
                {
                    "id": span.span_id,
                    "parent_id": span.parent_id,
                    "type": data.type,
                    "name": exported.get("name") or exported.get("model"),
                    "started_at": span.started_at,
                    "ended_at": span.ended_at,
                    "failed": span.error is not None,
                }
            )

    def shutdown(self) -> None:
        """Nothing is held open."""

    def force_flush(self) -> None:
        """Nothing is held back."""


_COLLECTOR = SpanCollector()
_installed: list[bool] = []
"""Whether spans are also exported, once this process has decided it."""


def install(*, export_to_openai: bool) -> None:
    """Collect spans in this process. Without `export_to_openai` the SDK's exporter is removed.

    The first call takes every processor out but ours, unless spans are exported, because the SDK cannot take out one;
    processors that are added after it stay. When two providers differ, the later one decides.
    """
    before = _installed[-1] if _installed else None
    if before is export_to_openai:
        return
    if not export_to_openai:
        set_trace_processors([_COLLECTOR])
    elif before is None:
        add_trace_processor(_COLLECTOR)
    else:
        add_trace_processor(default_processor())
    _installed[:] = [export_to_openai]
