"""The time of day anywhere."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from app.domain.models.tools import tool_policy


@tool_policy("idempotent")
async def get_current_time(timezone: str = "UTC") -> str:
    """Return the current date and time in a time zone.

    Args:
        timezone: An IANA time zone name, such as "Europe/Berlin"; "UTC" if the user named no place.
    """
    try:
        # UTC must work where no time zone data is installed.
        zone = UTC if timezone.upper() == "UTC" else ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):  # unknown; not a plain name; the name of a folder such as "Europe"
        return f"There is no time zone '{timezone[:64]}'. Use an IANA name such as 'Europe/Berlin' or 'UTC'."
    return datetime.now(zone).strftime(f"%A, %Y-%m-%d %H:%M:%S {timezone} (UTC%z)")
