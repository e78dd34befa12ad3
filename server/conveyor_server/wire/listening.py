"""Opens the sockets that gRPC is listened for on: addresses of the network, and a path. Knows no protocol."""

import os
import socket
import stat

from conveyor_server.core.errors import StartError

BACKLOG = 1024


def listen_on_network(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen at all addresses of a host, on one port.

    Args:
        host: an address, or a name that has some; `::` stands for all, also those of IPv4.
        port: 0 takes a free one.

    Raises:
        StartError: an address is taken or not ours.
    """
    return _bind(host, port, socket.SO_REUSEADDR, listen=True)


def reserve_on_network(host: str, port: int) -> list[socket.socket]:
    """Sockets that do not listen, and keep the port for processes that share it.

    Args and errors are those of `listen_on_network`. A port that another server shares in this way would be given to
    us as well, hence the look whether it is free at all.
    """
    for probe in listen_on_network(host, port):
        port = port or probe.getsockname()[1]
        probe.close()
    return _bind(host, port, socket.SO_REUSEPORT, listen=False)


def _bind(host: str, port: int, option: int, *, listen: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, (address, _, *rest) in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            sockets.append(socket.socket(family, kind, protocol))
            sockets[-1].setsockopt(socket.SOL_SOCKET, option, 1)
            if family == socket.AF_INET6:
                sockets[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address != "::")
            sockets[-1].bind((address, port, *rest))
            if listen:
                sockets[-1].listen(BACKLOG)
            port = sockets[-1].getsockname()[1]
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise StartError(
            f"gRPC cannot listen on {host}:{port}: the port is taken or the address is not of this machine "
            f"({error.strerror}). Choose another with --grpc-port or --host."
        ) from error
    return sockets


def listen_at_path(path: str) -> socket.socket:
    """A socket that listens at a path, for clients on this machine; one that a killed server left there is replaced.

    Raises:
        StartError: another server listens there, or the path cannot be used.
    """
    make_way(path)
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(path)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise StartError(f"gRPC cannot listen at '{path}': {error}. Choose another --unix-socket.") from error
    return listening


def make_way(path: str) -> None:
    """Removes a socket that nobody listens at any more.

    Raises:
        StartError: somebody does, or it is no socket.
    """
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return  # nothing is there, or whoever binds it will say what is wrong
    if not is_socket:
        raise StartError(f"gRPC cannot listen at '{path}': a file is there that is no socket.")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError as error:
            raise StartError(f"gRPC cannot listen at '{path}': {error}. Choose another --unix-socket.") from error
        else:
            raise StartError(f"gRPC cannot listen at '{path}': another server does. Choose another --unix-socket.")
