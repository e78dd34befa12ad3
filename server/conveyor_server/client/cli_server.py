"""The options of `conveyor-client` that say where the server is and how it is reached. One place for all commands."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from conveyor_server.client.client import Client

TOKEN_VARIABLE = "CONVEYOR_CLIENT_TOKEN"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Server:
    """Where the server is, and how it is reached.

    A token comes from a file or from the environment, because other users of a machine see the arguments of a process.
    """

    url: Annotated[
        str,
        Parameter(
            env_var="CONVEYOR_URL",
            help="host:port of the server's gRPC service, unix:path, or dns:///host:port for all servers of that name.",
        ),
    ] = "127.0.0.1:8001"
    timeout: Annotated[float, Parameter(validator=Number(gt=0), help="Seconds that a call may take.")] = 10.0
    tls: Annotated[bool, Parameter(env_var="CONVEYOR_CLIENT_TLS", negative="", help="Encrypt the connection.")] = False
    root_certificates: Annotated[
        Path | None,
        Parameter(
            env_var="CONVEYOR_CLIENT_ROOT_CERTIFICATES",
            help="PEM file of who signs the server's certificate, if the system does not know him. Implies --tls.",
        ),
    ] = None
    certificate: Annotated[
        Path | None,
        Parameter(
            env_var="CONVEYOR_CLIENT_CERTIFICATE",
            help="PEM file of this client's certificate, for servers that demand one. Implies --tls.",
        ),
    ] = None
    key: Annotated[
        Path | None, Parameter(env_var="CONVEYOR_CLIENT_KEY", help="PEM file of the certificate's private key.")
    ] = None
    server_name: Annotated[
        str | None,
        Parameter(env_var="CONVEYOR_CLIENT_SERVER_NAME", help="The name in the server's certificate, if not the host."),
    ] = None
    token_file: Annotated[
        Path | None,
        Parameter(
            env_var="CONVEYOR_CLIENT_TOKEN_FILE",
            help=f"File with the bearer token; without one, {TOKEN_VARIABLE} in the environment is the token.",
        ),
    ] = None
    insecure_token: Annotated[
        bool,
        Parameter(
            env_var="CONVEYOR_CLIENT_INSECURE_TOKEN",
            negative="",
            help="Send the token without TLS through a network that is trusted.",
        ),
    ] = False

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client with these options.

        Raises:
            ValueError: they make no sense, or a file cannot be read.
        """
        with Client(
            self.url,
            timeout=self.timeout,
            tls=self.tls or None,
            root_certificates=self.root_certificates,
            certificate=self.certificate,
            key=self.key,
            server_name=self.server_name,
            token=self._token(),
            insecure_token=self.insecure_token,
        ) as client:
            yield client

    def _token(self) -> str | None:
        if self.token_file is None:
            return os.environ.get(TOKEN_VARIABLE)
        try:
            return self.token_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"The token file '{self.token_file}' cannot be read: {error}") from error
