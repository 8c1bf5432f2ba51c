"""`/v1/models` and `/v1/embeddings`."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from typing import Any

from openai.types.embedding_create_params import EmbeddingCreateParams

from .backend import Answer, Backend, Call, json_answer
from .metering import count_tokens
from .schemas import at_least, at_most, check, missing, parameter_types
from .wire import ApiError, JsonObject, model_not_found

_CREATED = 1_700_000_000
_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072}
_INPUT = str | list[str] | list[int] | list[list[int]]


def list_models(backend: Backend, call: Call) -> Answer:
    """`GET /v1/models`."""
    return json_answer({"object": "list", "data": [_model(model) for model in backend.models]})


def retrieve_model(backend: Backend, call: Call) -> Answer:
    """`GET /v1/models/{id}`."""
    model = call.path["model"]
    if model not in backend.models:
        raise model_not_found(model)
    return json_answer(_model(model))


def _model(model: str) -> JsonObject:
    return {"id": model, "object": "model", "created": _CREATED, "owned_by": "openai"}


def embed(backend: Backend, call: Call) -> Answer:
    """`POST /v1/embeddings`: unit vectors drawn from a hash of model and text, so that equal texts are equal."""
    body = call.body
    for name in body:
        if name not in parameter_types(EmbeddingCreateParams):
            raise ApiError(f"Unrecognized request argument supplied: {name}")
    for name in ("input", "model"):
        if name not in body:
            raise missing(name)
    for name, value in body.items():
        check(_INPUT if name == "input" else parameter_types(EmbeddingCreateParams)[name], value, name)
    model = body["model"]
    if model not in backend.models or not model.startswith("text-embedding"):
        raise model_not_found(model)
    most = _DIMENSIONS.get(model, 1536)
    at_least("dimensions", body.get("dimensions"), 1)
    at_most("dimensions", body.get("dimensions"), most)
    texts = _texts(body["input"])
    as_base64 = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _pack(vector) if as_base64 else vector}
        for index, vector in enumerate(_vector(f"{model}:{text}", body.get("dimensions", most)) for text in texts)
    ]
    tokens = sum(count_tokens(text) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_answer({"object": "list", "data": data, "model": model, "usage": usage})


def _texts(given: Any) -> list[str]:
    entries = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
    texts = [entry if isinstance(entry, str) else " ".join(str(token) for token in entry) for entry in entries]
    if not texts or not all(texts) or len(texts) > 2048:
        raise ApiError("'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs.")
    return texts


def _vector(seed: str, dimensions: int) -> list[float]:
    raw = b"".join(
        hashlib.sha256(f"{seed}:{block}".encode()).digest() for block in range(math.ceil(dimensions * 2 / 32))
    )
    numbers = [value / 32768.0 for value in struct.unpack(f"<{dimensions}h", raw[: dimensions * 2])]
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return [number / length for number in numbers]


def _pack(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
