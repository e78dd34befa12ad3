"""The command `conveyor-server`: reads the settings and runs the server."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import App as CommandLine
from cyclopts import Parameter
from cyclopts.types import ExistingFile

from conveyor_server import __version__
from conveyor_server.core.errors import StartError
from conveyor_server.log_setup import set_up_logging
from conveyor_server.settings import ENVIRONMENT_PREFIX, Settings
from conveyor_server.wire.tokens import Scope, make_token

HELP = """Serve the ONNX models of a repository over gRPC (Open Inference Protocol) with dynamic batching.

Every option is also an environment variable (`CONVEYOR_GRPC_PORT`) and a key of the TOML file given with `--config`
(`grpc_port = 8001`). An option beats a variable, a variable beats the file.
"""

_environment = cyclopts.config.Env(ENVIRONMENT_PREFIX, command=False)
command_line = CommandLine(name="conveyor-server", help=HELP, version=__version__, config=_environment)


@command_line.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        ExistingFile | None, Parameter(env_var=f"{ENVIRONMENT_PREFIX}CONFIG", help="TOML file of settings.")
    ] = None,
) -> int:
    """Finds the settings file first, because it is where the other options may come from."""
    if config is not None:
        command_line.config = (_environment, cyclopts.config.Toml(config, must_exist=True))
    result: int = command_line(tokens)
    return result


@command_line.default
def serve(*, settings: Settings | None = None) -> int:
    """Runs the server until a signal stops it."""
    settings = settings or Settings()
    set_up_logging(settings.log_level, settings.log_format)
    asyncio.run(_run(settings))
    return 0


@command_line.command(config=())  # no setting of the server is one of this command
def token(
    name: str,
    *,
    scope: Annotated[tuple[Scope, ...], Parameter(negative="")] = (Scope.INFER, Scope.READ),
    append: Path | None = None,
) -> int:
    """Makes a token for the file of --tokens. The token itself is shown this once, on standard output.

    Args:
        name: Whose it is; the access log names the caller so.
        scope: What it is for; may be repeated. `infer` asks for predictions, `read` asks what there is (signatures,
            statistics, metrics), `admin` loads and unloads models.
        append: Add the line to this file, instead of showing it.
    """
    made, line = make_token(name, scope)
    if append:
        try:
            with append.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise StartError(f"'{append}' cannot be written to: {error.strerror}.") from error
    else:
        sys.stderr.write(f"The line for the file of --tokens:\n{line}\nThe token, which nobody can show again:\n")
    sys.stdout.write(f"{made}\n")
    return 0


async def _run(settings: Settings) -> None:
    # Imported here, so that --help and a wrong flag need no runtime, one process no supervisor, and that one no models.
    from conveyor_server.transport_choice import choose_transport
    from conveyor_server.workers.count import choose_workers

    settings = replace(settings, transport=choose_transport(settings.transport))
    workers = choose_workers(settings)
    if workers == 1:
        from conveyor_server.app import App

        await App(settings).run()
    else:
        from conveyor_server.workers.supervisor import Supervisor

        await Supervisor(settings, workers).run()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit codes: 0 stopped as asked, 1 cannot serve, 2 wrong usage, 128 + n left at once by signal n."""
    try:
        sys.exit(command_line.meta(sys.argv[1:] if arguments is None else arguments))
    except StartError as error:
        sys.stderr.write(f"conveyor-server: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
