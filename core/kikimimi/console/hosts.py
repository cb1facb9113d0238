"""Names by which a machine calls itself, and by which it lets itself be called.

A page of the web may give its own name the address of this machine (DNS rebinding), and would read what it
asks there; an address in place of a name is nobody's own.
"""

import ipaddress
import socket
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Return whether a host name or address always means this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def may_call(header: str, host: str = "localhost") -> bool:
    """Return whether a server answers to the name that a client calls it by.

    Args:
        header: The header `Host`, a name with or without a port.
        host: Name or address that the server listens at. Where that is all of the machine's (0.0.0.0), every
            address is taken, and the machine's own name.
    """
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    if is_loopback(name) or name == host.lower():
        return True
    return _is_address(host, any_of_it=True) and (_is_address(name) or name == socket.gethostname().lower())


def _is_address(name: str, *, any_of_it: bool = False) -> bool:
    try:
        return ipaddress.ip_address(name).is_unspecified or not any_of_it
    except ValueError:
        return False
