"""`POST /v1/embeddings`: upstream models only; no agent makes embeddings."""

from typing import Any, Final

from fastapi import APIRouter, Request
from msgspec import Struct
from starlette.responses import Response

from app.api.openai.access import Access
from app.api.openai.upstream import upstream_reply
from app.api.openapi import replies

router = APIRouter(prefix="/v1", tags=["embeddings"])

_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["model", "input"],
                "properties": {
                    "model": {"type": "string", "minLength": 1, "maxLength": 255},
                    "input": {
                        "anyOf": [{"type": "string"}, {"type": "array"}],
                        "description": "A text, texts, or tokens by their numbers; the upstream model judges it.",
                    },
                },
                "additionalProperties": True,
            },
            "example": {"model": "text-embedding-3-small", "input": "The food was delicious."},
        }
    },
}


class Embedding(Struct, frozen=True):
    """One vector."""

    object: str
    index: int
    embedding: list[float] | str
    """Numbers, or their float32 bytes in base64 when `encoding_format` asks for it."""


class EmbeddingUsage(Struct, frozen=True):
    """What it took."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True):
    """Vectors in the order of the input; upstreams may tell more."""

    object: str
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@router.post(
    "/embeddings",
    summary="Create embeddings with an upstream model",
    responses=replies(
        EmbeddingList,
        *(400, 401, 404, 413, 429, 500, 502, 503, 504),
        description="What the upstream model answered, byte for byte.",
    ),
    openapi_extra={"requestBody": _BODY},
    response_class=Response,
    response_model=None,
)
async def create_embeddings(request: Request, access: Access) -> Response:
    """Pass a request through to an allowed upstream model; errors about the request are the upstream's own."""
    return await upstream_reply(request, await request.body(), None, access, path="/embeddings")
