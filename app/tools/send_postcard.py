"""A postcard for the demo: the tool that a person must allow. It is written down, never sent."""

from app.domain.models.tools import current_tool_call, needs_approval, tool_policy


@needs_approval
@tool_policy("idempotency_key")
async def send_postcard(city: str) -> str:
    """Send a postcard from a city. A demonstration: nothing leaves this machine.

    Args:
        city: Where the postcard comes from, such as "Lisbon".
    """
    name = " ".join(city.split())[:80]
    if not name:
        return "Name a city."
    # A real postal service would be given the key, so that a repeated call sends no second card.
    number = current_tool_call().idempotency_key.rsplit(":", 1)[-1][-4:]
    return f"Postcard from {name} is on its way (sample, number {number})."
