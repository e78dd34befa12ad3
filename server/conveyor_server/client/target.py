"""The addresses that a client understands, and what they say of where the server is. Opens nothing."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import unquote

_FORMS = "host:port, dns:///host:port, ipv4:1.2.3.4:port,…, ipv6:[::1]:port,… or unix:path"
_FLEETS = ("dns", "ipv4", "ipv6")
_LOCAL = ("unix", "unix-abstract")
_NOT_GRPC = ("http", "https", "grpc", "grpcs", "tcp")


@dataclass(frozen=True)
class Target:
    """Where the server is, or the servers are."""

    text: str
    """As gRPC wants it."""
    hosts: tuple[str, ...] = ()
    """Names or addresses, without ports; none for a socket of this machine."""
    fleet: bool = False
    """Whether every address behind it is a replica, to be used in turn."""

    @property
    def local(self) -> bool:
        """Whether it is surely on this machine, so that no network sees what is sent."""
        return all(_is_loopback(host) for host in self.hosts)


def parse_target(url: str) -> Target:
    """Reads an address.

    `host:port` is one server, or a balancer. With a scheme in front, `dns:///host:port` or `ipv4:…,…`, each address
    that it leads to is a replica.

    Raises:
        ValueError: nothing that a client could connect to.
    """
    scheme, colon, rest = url.partition(":")
    if scheme in _LOCAL and colon:
        if not rest.strip("/"):
            raise ValueError(f"'{url}' names no socket. Expected unix:path.")
        return Target(url)
    if "//" in url and scheme in _NOT_GRPC:
        raise ValueError(
            f"'{url}' is no address of a gRPC service: leave out '{scheme}://'. Expected {_FORMS}; TLS is an option "
            "of its own."
        )
    if scheme in _FLEETS and colon and not rest.isdecimal():
        authorities = rest.rsplit("/", 1)[-1].split(",")
        return Target(url, tuple(_host(unquote(one), url) for one in authorities), fleet=True)
    return Target(url, (_host(url, url),))


def _host(authority: str, url: str) -> str:
    host, colon, port = authority.rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"'{url}' is no address. Expected {_FORMS}; an address of IPv6 stands in brackets.")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"'{url}' has no valid host and port. Expected {_FORMS}; the port is usually 8001.")
    return host.strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
