"""The settings of the server, each declared once: type, default, flag, environment variable, TOML key, help, check.

A setting `grpc_port` is the flag `--grpc-port`, the variable `CONVEYOR_GRPC_PORT` and the TOML key `grpc_port`. A flag
beats a variable, a variable beats the file, the file beats the default.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple, get_args, get_type_hints

from cyclopts import Parameter
from cyclopts.validators import Number

from conveyor_server.core.errors import StartError
from conveyor_server.engine.providers import ExecutionProvider
from conveyor_server.log_setup import LogFormat

ENVIRONMENT_PREFIX = "CONVEYOR_"

_port = Number(gte=0, lte=65535)
_positive = Number(gt=0)
_not_negative = Number(gte=0)


class ModelControl(StrEnum):
    """Who decides which models are loaded."""

    NONE = "none"
    POLL = "poll"
    EXPLICIT = "explicit"


class Transport(StrEnum):
    """What carries gRPC."""

    AUTO = "auto"
    H2 = "h2"
    GRPCIO = "grpcio"


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set. An instance is always consistent.

    Raises:
        StartError: two settings contradict each other.
    """

    repository: Annotated[
        str,
        Parameter(
            help="Folder with the models, each as `<model>/<version>/model.onnx`, or a URL such as "
            "`s3://bucket/prefix`, which is kept as a copy; credentials come from the environment."
        ),
    ] = "models"
    repository_cache: Annotated[Path, Parameter(help="Where copies of repositories behind a URL are kept.")] = Path(
        "~/.cache/conveyor"
    )
    model_control: Annotated[
        ModelControl,
        Parameter(
            help="What is loaded, and when: `none` loads everything once, `poll` follows the folder, `explicit` loads "
            "what --load names and what clients ask for."
        ),
    ] = ModelControl.NONE
    load: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="Under `explicit`: a model to load at the start; may be repeated; `*` for all."),
    ] = ()
    allow_admin: Annotated[
        bool,
        Parameter(
            negative="", help="Under `explicit`: let clients load and unload models (RepositoryModelLoad, …Unload)."
        ),
    ] = False
    poll_seconds: Annotated[
        float, Parameter(validator=_positive, help="Under `poll`: how often the folder is looked at.")
    ] = 15.0
    server_name: Annotated[
        str, Parameter(help="The name in ServerMetadata. Some clients of Triton look for `triton`.")
    ] = "conveyor"
    host: Annotated[str, Parameter(help="Address to listen on; 0.0.0.0 for all of IPv4, :: for all.")] = "127.0.0.1"
    grpc_port: Annotated[int, Parameter(validator=_port, help="Port of the gRPC service; 0 takes a free one.")] = 8001
    transport: Annotated[
        Transport,
        Parameter(
            help="What carries gRPC: `h2` is the fast one, `grpcio` gRPC's own library; `auto` takes the first where "
            "its package is installed in the version that has been tested."
        ),
    ] = Transport.AUTO
    unix_socket: Annotated[
        str,
        Parameter(
            help="Path to listen at as well, without TLS, for clients on this machine (`unix:PATH`). Who may open the "
            "file may connect."
        ),
    ] = ""
    http_port: Annotated[
        int, Parameter(validator=_port, help="Port of /metrics, /healthz and /readyz over HTTP; 0 takes a free one.")
    ] = 8000
    tls_certificate: Annotated[
        str,
        Parameter(
            help="PEM file with the server's certificate, and those between it and the root behind it. With it both "
            "ports speak TLS only; a new file is taken for new connections, without a restart."
        ),
    ] = ""
    tls_key: Annotated[str, Parameter(help="PEM file with the certificate's private key, not encrypted.")] = ""
    tls_client_authority: Annotated[
        str,
        Parameter(
            help="PEM file with certificate authorities: only clients with a certificate of theirs are let in (mutual "
            "TLS). /healthz and /readyz are open without one."
        ),
    ] = ""
    tokens: Annotated[
        str,
        Parameter(
            help="File with the hashes of tokens, a line each, as `conveyor-server token NAME` makes them: only calls "
            "with one of them are let in, but for health. Followed while the server runs."
        ),
    ] = ""
    insecure: Annotated[
        bool,
        Parameter(
            negative="",
            help="The network is trusted: do not warn of addresses that other machines reach without TLS.",
        ),
    ] = False
    max_connections: Annotated[
        int, Parameter(validator=_positive, help="Connections that clients of gRPC may hold; more are closed at once.")
    ] = 4096
    max_connection_age_seconds: Annotated[
        float,
        Parameter(
            validator=_not_negative,
            help="How long a connection takes new calls, give or take a tenth; then its client opens another one, and "
            "finds new replicas. Open calls go on. 0 for ever.",
        ),
    ] = 600.0
    max_connection_grace_seconds: Annotated[
        float,
        Parameter(
            validator=_not_negative,
            help="How long calls that are open by then may go on, streams most of all. 0 for as long as they like.",
        ),
    ] = 3600.0
    max_connection_idle_seconds: Annotated[
        float,
        Parameter(
            validator=_not_negative,
            help="How long a connection without a call is kept, up to its age. 0 as long as that: what a client sends "
            "in the very moment in which an idle connection is closed would be lost.",
        ),
    ] = 0.0
    keepalive_seconds: Annotated[
        float,
        Parameter(
            validator=_not_negative,
            help="After how much silence a client is asked whether it lives; if it does not say so within 20 s, its "
            "connection is closed. 0 never asks.",
        ),
    ] = 60.0
    max_streams: Annotated[
        int,
        Parameter(validator=_positive, help="Calls that may be open on one connection of gRPC; more are refused."),
    ] = 4096
    execution_provider: Annotated[
        ExecutionProvider,
        Parameter(help="What runs the models. `cuda` fails when it cannot be used; `auto` falls back to the CPU."),
    ] = ExecutionProvider.AUTO
    workers: Annotated[
        int,
        Parameter(
            validator=_not_negative,
            help="Processes that serve the same port, each with models of its own, kept running by another one. 0 "
            "takes one for each whole CPU of the quota, as far as memory goes (256 MiB each); 1 with CUDA or grpcio.",
        ),
    ] = 0
    threads: Annotated[
        int,
        Parameter(
            validator=_not_negative,
            help="CPU threads inside one run; 0 measures whether more than one pays, up to the container's quota.",
        ),
    ] = 0
    runners: Annotated[
        int,
        Parameter(validator=_positive, help="Runs of one model at the same time, where runs are long enough to pay."),
    ] = 1
    max_batch_size: Annotated[
        int, Parameter(validator=_positive, help="Rows that one request may carry. Large requests are split into runs.")
    ] = 1024
    max_queue_rows: Annotated[
        int, Parameter(validator=_positive, help="Rows that may wait for one model; what comes on top is refused.")
    ] = 8192
    max_queue_bytes: Annotated[
        int, Parameter(validator=_positive, help="Bytes of input that may wait for one model.")
    ] = 256 * 2**20
    max_queue_delay_microseconds: Annotated[
        int,
        Parameter(
            validator=_not_negative,
            help="How long the oldest request may be held back to fill a batch. 0 never holds back: batches form from "
            "what waits while a run is on.",
        ),
    ] = 0
    max_message_bytes: Annotated[
        int,
        Parameter(
            validator=_positive,
            help="Size limit of one request and of one response. Requests that are larger than what any loaded model "
            "takes at max_batch_size are refused below it.",
        ),
    ] = 64 * 2**20
    max_waiting_calls: Annotated[
        int,
        Parameter(
            validator=_positive,
            help="Calls that may wait to be read while more come than can be answered; of what comes on top, ever more "
            "is cut off at once, and at twice as many everything. Less keeps shorter deadlines under overload, and "
            "cuts into smaller bursts.",
        ),
    ] = 1000
    lame_duck_seconds: Annotated[
        float,
        Parameter(
            validator=_not_negative,
            help="After SIGTERM: how long the server says that it is not ready and still serves, so that balancers "
            "turn away in time. Ctrl-C skips it.",
        ),
    ] = 5.0
    drain_seconds: Annotated[
        float, Parameter(validator=_not_negative, help="Then: how long accepted requests may take to be answered.")
    ] = 30.0
    log_level: Annotated[LogLevel, Parameter(help="How much is logged, on standard error.")] = LogLevel.INFO
    log_format: Annotated[LogFormat, Parameter(help="How log lines look: for people, or one JSON object a line.")] = (
        LogFormat.HUMAN
    )
    access_log: Annotated[
        bool, Parameter(negative="", help="Log a line for each inference request: names and numbers, no payloads.")
    ] = False
    trace_endpoint: Annotated[
        str,
        Parameter(help="OTLP collector that gets traces over gRPC, such as `http://localhost:4317`; empty for none."),
    ] = ""

    def __post_init__(self) -> None:
        if self.model_control is not ModelControl.EXPLICIT and (self.load or self.allow_admin):
            raise StartError("--load and --allow-admin need --model-control explicit.")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise StartError("--tls-certificate and --tls-key come together; one of them is missing.")
        if self.tls_client_authority and not self.tls_certificate:
            raise StartError("--tls-client-authority needs --tls-certificate and --tls-key.")
        if self.max_queue_rows < self.max_batch_size:
            raise StartError(
                f"max_queue_rows ({self.max_queue_rows}) is smaller than max_batch_size ({self.max_batch_size}): the "
                "largest request could never be queued. Raise the first or lower the second."
            )


class SettingDescription(NamedTuple):
    """One row of the documentation."""

    flag: str
    variable: str
    default: str
    help: str


def describe_settings() -> Iterator[SettingDescription]:
    """All settings in order, for the table in the README."""
    hints = get_type_hints(Settings, include_extras=True)
    for setting in fields(Settings):
        parameter = next(extra for extra in get_args(hints[setting.name]) if isinstance(extra, Parameter))
        yield SettingDescription(
            flag="--" + setting.name.replace("_", "-"),
            variable=ENVIRONMENT_PREFIX + setting.name.upper(),
            default=str(setting.default),
            help=parameter.help or "",
        )
