"""Weather for the demo, made up but always the same."""

import hashlib

from app.domain.models.tools import tool_policy

_CONDITIONS = ("sunny", "partly cloudy", "overcast", "light rain", "thunderstorms", "snow showers", "fog", "windy")


@tool_policy("idempotent")
async def get_weather(city: str) -> str:
    """Return the weather of a city. This is sample data for demonstrations, not a real observation.

    Args:
        city: The name of the city, such as "Lisbon".
    """
    name = " ".join(city.split())[:80]
    if not name:
        return "Name a city."
    # Python's own hash differs from process to process.
    digest = hashlib.sha256(name.casefold().encode()).digest()
    return f"{name}: {_CONDITIONS[digest[0] % len(_CONDITIONS)]}, {digest[1] % 40 - 5} °C (sample data)"
