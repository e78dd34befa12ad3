"""What an operator should hear of a server that other machines can reach. Knows the settings, and asks the system."""

import ipaddress
import resource

from conveyor_server.settings import Settings

_OTHER_FILES = 256
"""Open files of the server that are no connections of gRPC: models, logs, HTTP, the runtime's own."""


def exposure_warning(settings: Settings) -> str:
    """What is wrong with listening on this address in this way; empty where nothing is, or someone said it is meant."""
    if settings.insecure or settings.tls_certificate or _is_loopback(settings.host):
        return ""
    risk = "may ask for anything" if not settings.tokens else "can read the tokens that are sent"
    return (
        f"Listening on {settings.host} without TLS: whoever reaches the ports {risk}. Give the server "
        "--tls-certificate and --tls-key, and --tokens or --tls-client-authority; or say --insecure where the "
        "network is trusted."
    )


def allow_connections(wanted: int) -> str:
    """Lets the process have as many open files as so many connections need.

    Returns what an operator should hear; empty where all is well.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return ""
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed == needed:
        return ""
    return (
        f"The system allows {allowed} open files, too few for {wanted} connections. Raise the limit (ulimit -n), or "
        "lower --max-connections."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"
