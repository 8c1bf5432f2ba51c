"""What counts as this machine."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Tell whether a host, without its port, is `localhost` or an address of the loopback network."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
