"""Whether the model's endpoint can be used, for people who look for what is wrong."""

from dataclasses import dataclass
from typing import Literal

from openai import AsyncOpenAI

from app.domain.errors import ProviderRejected
from app.infrastructure.providers.openai.errors import translate


@dataclass(frozen=True, slots=True)
class EndpointState:
    """Where models are called, and whether that works."""

    kind: Literal["demo", "endpoint"]
    base_url: str | None
    """Without user name, password and query; None for the demo model."""
    reachable: bool | None
    """None: it was not asked."""
    models: int | None
    """How many models it lists; None when it was not asked, or lists none."""
    problem: str | None


async def endpoint_state(client: AsyncOpenAI | None, *, timeout_s: float | None) -> EndpointState:
    """Ask an endpoint for its models within `timeout_s` seconds, and close the client; None: do not ask.

    An endpoint that knows no such list counts as reachable. Never raises for one that is away.
    """
    if client is None:
        return EndpointState("demo", None, reachable=None, models=None, problem=None)
    base_url = str(client.base_url.copy_with(userinfo=b"", query=None))
    try:
        if timeout_s is None:
            return EndpointState("endpoint", base_url, reachable=None, models=None, problem=None)
        page = await client.with_options(timeout=timeout_s, max_retries=0).models.list()
        return EndpointState("endpoint", base_url, reachable=True, models=len(page.data), problem=None)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        problem = translate(error)
        if isinstance(problem, ProviderRejected) and problem.upstream_status in {404, 405, 501}:
            return EndpointState("endpoint", base_url, reachable=True, models=None, problem=None)
        return EndpointState("endpoint", base_url, reachable=False, models=None, problem=problem.public_message)
    finally:
        await client.close()
