"""Which hosts and addresses a URL of a caller may lead to. Pure.

A URL is fetched by this machine, which reaches services that the caller cannot: cloud metadata,
databases, admin pages. So hosts are listed, and each address of a listed name is checked too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

from samserve.core.errors import InvalidInput, shorten

MOST_URL = 4096  # characters
PORTS = {"http": 80, "https": 443}

PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # carrier-grade NAT, and overlay networks of clusters
        "::1/128",
        "fc00::/7",
    )
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class AllowedHost:
    """A host that images may be fetched from.

    Attributes:
        name: Host name or address, in lower case, without brackets.
        port: The only port; None allows the scheme's default port.
        private: Whether it may have a private or loopback address.
    """

    name: str
    port: int | None = None
    private: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL.

    Attributes:
        scheme: "http" or "https".
        host: The entry of the list that allows it.
        port: To connect to.
        path: With the query; begins with a slash.
    """

    scheme: str
    host: AllowedHost
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port: what credentials belong to."""
        return self.scheme, self.host.name, self.port

    @property
    def authority(self) -> str:
        """The value of the header `Host`."""
        name = f"[{self.host.name}]" if ":" in self.host.name else self.host.name
        return name if self.port == PORTS[self.scheme] else f"{name}:{self.port}"


def parse_hosts(text: str, *, private: bool = False) -> tuple[AllowedHost, ...]:
    """Parse a list such as "images.example.com,cdn.example.com:8443,[2001:db8::1]:80".

    Raises:
        ValueError: An entry is no host[:port].
    """
    entries = [entry.strip() for entry in text.split(",")]
    return tuple(_parse_host(entry, private) for entry in entries if entry)


def _parse_host(entry: str, private: bool) -> AllowedHost:
    parts = urlsplit(f"//{entry}")
    if parts.netloc != entry or "@" in entry or not parts.hostname:
        raise ValueError(f"invalid host {entry!r}; expected host or host:port")
    return AllowedHost(parts.hostname, parts.port, private)


def host_of(base: str) -> AllowedHost:
    """Return the host of an operator's own URL; it may have a private address."""
    parts = urlsplit(base)
    return AllowedHost(parts.hostname or "", parts.port or PORTS[parts.scheme], private=True)


def check_url(url: str, hosts: Iterable[AllowedHost], field: str) -> Target:
    """Check a URL's form, scheme and host.

    Raises:
        InvalidInput: It is not allowed; the error names the field.
    """
    if len(url) > MOST_URL:
        raise InvalidInput(
            field, f"{field}: a URL of {len(url):,} characters; the limit is {MOST_URL:,}"
        )
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise InvalidInput(field, f"{field}: invalid URL {shorten(url)!r}; percent-encode it")

    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme, parts.port
    except ValueError as problem:
        raise InvalidInput(field, f"{field}: invalid URL {shorten(url)!r}: {problem}") from problem
    if scheme not in PORTS:
        raise InvalidInput(field, f"{field}: unsupported scheme {shorten(scheme)!r}; use http(s)")
    if "@" in parts.netloc:
        raise InvalidInput(field, f"{field}: a URL with a user name or password is not allowed")

    port = PORTS[scheme] if port is None else port
    name = parts.hostname or ""
    for host in hosts:
        if host.name == name and port == (PORTS[scheme] if host.port is None else host.port):
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            return Target(scheme, host, port, path)
    raise InvalidInput(
        field, f"{field}: host {shorten(parts.netloc)!r} is not on the list of allowed hosts"
    )


def is_allowed(text: str, *, private: bool) -> bool:
    """Whether an address may be connected to.

    Args:
        text: As the resolver gives it.
        private: Whether private and loopback addresses are allowed. Link-local, multicast and
            reserved addresses never are.
    """
    try:
        address = _embedded(ipaddress.ip_address(text))
    except ValueError:  # such as an address with a zone
        return False
    if any(address.version == network.version and address in network for network in PRIVATE):
        return private
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address leads to, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)
