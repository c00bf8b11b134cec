"""Where a server outside of the cluster is, and whether it may be asked. Pure: names are looked up elsewhere."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses that stand for IPv4's (RFC 6052)."""
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*", re.IGNORECASE)
_PREFIX = re.compile(r"(/[-A-Za-z0-9._~]+)*")
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[-A-Za-z0-9.]+)(:(?P<port>[0-9]{1,5}))?(?P<path>(/[-A-Za-z0-9._~]+)*)/*"
)


@dataclass(frozen=True)
class Server:
    """An HTTP server."""

    host: str
    """Name, or address."""
    port: int = 443
    tls: bool = True
    path_prefix: str = ""
    """What stands before /v1 in its paths, such as /openai."""

    def __post_init__(self) -> None:
        """Raise ValueError for what must not come into a request's headers."""
        dotted_numbers = self.host.replace(".", "").isdecimal()
        if not self.is_address and (dotted_numbers or not _HOST.fullmatch(self.host)):
            raise ValueError(f"{self.host} is no name of a host")
        if not 0 < self.port < 65536:
            raise ValueError(f"{self.port} is no port")
        if not _PREFIX.fullmatch(self.path_prefix) or {".", ".."} & set(self.path_prefix.split("/")):
            raise ValueError(f"{self.path_prefix} is no beginning of a path")

    @property
    def authority(self) -> str:
        """What it is told that it is called: the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def is_address(self) -> bool:
        """Whether its name is an address."""
        return is_address(self.host)

    def url(self, path: str, *, address: str | None = None) -> str:
        """URL of a path there; `address`: at this one of its addresses."""
        host = self.authority if address is None else f"{f'[{address}]' if ':' in address else address}:{self.port}"
        return f"{'https' if self.tls else 'http'}://{host}{self.path_prefix}{path}"


def read_server(url: str) -> Server:
    """The server of a base URL, with or without /v1 at its end. Raises ValueError."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(f"{url} is no base URL: write https://HOST, https://HOST:PORT or https://HOST/PATH")
    tls = found["scheme"] == "https"
    return Server(
        found["host"].lower(), int(found["port"] or (443 if tls else 80)), tls, found["path"].removesuffix("/v1")
    )


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def read_networks(text: str) -> tuple[Network, ...]:
    """Networks, separated by commas, such as 10.0.0.0/8. Raises ValueError naming what is none."""
    return tuple(ipaddress.ip_network(each.strip()) for each in text.split(",") if each.strip())


def may_be_asked(address: str, networks: Iterable[Network] = ()) -> bool:
    """Whether an address is one of the Internet's, or in one of these networks.

    Otherwise whoever writes a URL could have requests sent to what only the cluster sees: its own API, a cloud's metadata.
    """
    found: Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        found = inner or found
    if any(found.version == network.version and found in network for network in networks):
        return True
    return found.is_global and not found.is_multicast
