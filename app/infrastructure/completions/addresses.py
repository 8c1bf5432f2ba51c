"""Which network addresses a request may go to: decided where the connection is made, after the name was looked up."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

_NAT64: Final = ip_network("64:ff9b::/96")
_MORE: Final = (
    ip_network("192.0.0.0/24"),
    ip_network("192.88.99.0/24"),
    ip_network("64:ff9b:1::/48"),
    ip_network("100::/64"),
    ip_network("5f00::/16"),
    ip_network("fec0::/10"),
)


class AddressRefused(OSError):
    """A name leads to no address that may be reached."""


def is_public(address: str) -> bool:
    """Tell whether an address is one of the public network, also inside of an IPv6 address that carries an IPv4 one.

    Loopback, private, link-local (with it the metadata services of clouds), multicast and reserved ones are not.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(_is_public(one) for one in (parsed, *_inside(parsed)))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    # An IPv4 address that is carried by an IPv6 one is judged by itself; the carrier is reserved by definition.
    if isinstance(address, IPv6Address) and _inside(address):
        return not address.is_multicast
    refused = address.is_multicast or address.is_reserved or address.is_unspecified
    return address.is_global and not refused and not any(address in network for network in _MORE)


def _inside(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or int(address) >> 32 == 0:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]


class PublicResolver(AbstractResolver):
    """Looks names up and gives only public addresses on: the client connects to what was checked here."""

    def __init__(self) -> None:
        """Ask the system."""
        self._system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the public addresses of a name.

        Raises:
            AddressRefused: it has others only.
        """
        found = [one for one in await self._system.resolve(host, port, family) if is_public(one["host"])]
        if not found:
            raise AddressRefused("The name leads to no public address.")
        return found

    async def close(self) -> None:
        """Release what the system's resolver holds."""
        await self._system.close()
