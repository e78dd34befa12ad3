"""What `Client` and `AsyncClient` have in common: their options, checked once, and the parts that these make up."""

from conveyor_server.client.asking import Asking
from conveyor_server.client.channel_options import KEEPALIVE_SECONDS, channel_options
from conveyor_server.client.gathering import Gathering
from conveyor_server.client.grpc_channels import ChannelSettings
from conveyor_server.client.inference import Contents, Inference
from conveyor_server.client.model_descriptions import ModelDescriptions
from conveyor_server.client.procedures import Procedures
from conveyor_server.client.retries import Retries, RetryPolicy
from conveyor_server.client.security import Pem, Token, authorization, read_certificates
from conveyor_server.client.target import parse_target

_RETRY = RetryPolicy()


class BaseClient:
    """A connection to one server, or to all servers behind a name."""

    def __init__(
        self,
        url: str = "127.0.0.1:8001",
        *,
        timeout: float = 10.0,
        connections: int = 1,
        retry: RetryPolicy | None = _RETRY,
        gather_rows: int = 0,
        gather_delay: float = 0.0,
        keepalive: float | None = KEEPALIVE_SECONDS,
        tls: bool | None = None,
        root_certificates: Pem | None = None,
        certificate: Pem | None = None,
        key: Pem | None = None,
        server_name: str | None = None,
        token: Token | None = None,
        insecure_token: bool = False,
    ) -> None:
        """The options of both clients.

        Args:
            url: `host:port` of the gRPC service, or `unix:path`. With `dns:///host:port` or `ipv4:1.2.3.4:8001,…` every
                address is a replica: each gets requests in turn, and those that say that they are not ready get none.
            timeout: seconds that a call may take, retries included. The server is told, and does not run what it could
                not answer in time.
            connections: to each server. A call takes the one with the fewest calls under way.
            retry: how often UNAVAILABLE is asked again; None for never.
            gather_rows: concurrent calls for the same model, version, dtype, image shape and options are put into
                requests of up to so many rows; below 2, each call is a request of its own. Calls with a `request_id`,
                or too large to share a request, always are.
            gather_delay: seconds that a call may wait for others. 0 waits only while as many requests of the kind are
                under way as there are connections.
            keepalive: seconds between pings on a connection with calls under way; None for no pings. Servers may end
                connections that ping more often than every 300 seconds.
            tls: whether the connection is encrypted; it is where certificates are given.
            root_certificates: PEM file (or its content, as bytes) of who signs the server's certificate; the system's
                authorities if left out.
            certificate: PEM file of the client's own certificate, for servers that demand one; with it goes
            key: PEM file of the certificate's private key.
            server_name: the name in the server's certificate, where `url` has another.
            token: sent with each call as `authorization: Bearer …`; a function is asked before each call.
            insecure_token: lets the token pass a network without TLS, which everyone on it can read.

        Raises:
            ValueError: options that contradict each other, an address that is none, a file that cannot be read.
        """
        if connections < 1 or (keepalive is not None and keepalive <= 0):
            raise ValueError(f"connections and keepalive must be above 0, got {connections} and {keepalive}.")
        if gather_rows < 0 or gather_delay < 0:
            raise ValueError(f"gather_rows and gather_delay must not be below 0, got {gather_rows} and {gather_delay}.")
        target = parse_target(url)
        certificates = read_certificates(tls, root_certificates, certificate, key)
        self.url = url
        self.connections = connections
        self._settings = ChannelSettings(
            target.text,
            channel_options(target, keepalive=keepalive, server_name=server_name, retries=retry is not None),
            certificates,
            authorization(token, target, encrypted=certificates is not None, insecure=insecure_token),
            connections,
        )
        self._gather_delay = gather_delay
        self._gathering: Gathering[Contents] | None = None
        if gather_rows > 1:
            self._gathering = Gathering(gather_rows, delayed=gather_delay > 0, connections=connections)
        asking = Asking(url, timeout, Retries(retry))
        asking.deadline(timeout)  # refuses one that makes no sense
        descriptions = ModelDescriptions(asking)
        self._inference = Inference(asking, descriptions, self._gathering, gather_delay)
        self._asking = asking
        self._procedures = Procedures(asking, descriptions, self._inference)
        self._open()

    def _open(self) -> None:
        """Makes the connections that the options describe; they connect when they are needed."""
        raise NotImplementedError
