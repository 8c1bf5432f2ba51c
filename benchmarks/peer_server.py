"""`python -m benchmarks.peer_server PORT`: what one writes by hand in an afternoon. It imports nothing of ours."""

import json
import sys
from collections.abc import AsyncIterator

import uvicorn
from agents import Runner
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

from benchmarks.instant_model import SERVER_OPTIONS, streaming_agents

app = FastAPI()
AGENTS = {agent.name: agent for agent in streaming_agents()}


class Question(BaseModel):
    """What a client sends."""

    agent: str
    message: str


@app.post("/chat/stream")
async def chat_stream(question: Question) -> StreamingResponse:
    """Stream the answer, one frame a text delta; no database, no journal."""
    return StreamingResponse(frames(question), media_type="text/event-stream")


async def frames(question: Question) -> AsyncIterator[str]:
    """Yield the frames."""
    result = Runner.run_streamed(AGENTS[question.agent], question.message)
    async for event in result.stream_events():
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
            yield f"data: {json.dumps({'delta': event.data.delta})}\n\n"


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning", **SERVER_OPTIONS)
