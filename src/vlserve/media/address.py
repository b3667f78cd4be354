"""Which addresses are the public's: nobody outside may make this server ask one of its own."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

# Beyond what the library knows to be private, shared, reserved or for documents: not every
# release of it knows the same.
_NOT_FOR_US: Final = (
    IPv4Network("192.0.0.0/24"),  # for protocols; 192.0.0.192 is Oracle's host
    IPv4Network("198.18.0.0/15"),  # for measurements
    IPv4Network("168.63.129.16/32"),  # Azure's host, from inside a virtual machine
    IPv4Network("192.88.99.0/24"),  # relays into 6to4
)
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
# They hold an IPv4 address, which a relay on the way would ask.
_TUNNELS: Final = (
    IPv6Network("2001::/32"),  # Teredo
    IPv6Network("2002::/16"),  # 6to4
)


def is_public(host: str) -> bool:
    """Whether an IP address, as the kernel is given it, is one of the public internet's.

    IPv6 only from 2000::/3, which leaves out addresses that hold an IPv4 one (mapped, compatible,
    NAT64), and without tunnels.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_FOR_US)
    return _is_public_6(address)


def _is_public_6(address: IPv6Address) -> bool:
    return address in _GLOBAL_UNICAST and not any(address in network for network in _TUNNELS)
