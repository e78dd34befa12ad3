"""The errors of the server, by whose fault they are. Their gRPC codes stand in one table, `wire/status.py`."""


class ConveyorError(Exception):
    """Root of all errors that the server raises on purpose."""


class StartError(ConveyorError):
    """The server cannot start: settings, repository or machine. The text says what to do."""


class ModelRejected(ConveyorError):
    """A model file that is not served. The text is the reason; the other models are not touched."""


class ProviderUnavailable(StartError):
    """The execution provider that was asked for cannot be used on this machine."""


class RepositoryUnreachable(StartError):
    """A remote repository cannot be listed or not wholly downloaded. While the server runs, the next attempt may do."""


class RequestError(ConveyorError):
    """An answer to one request that is not its outputs. The text goes to the client."""


class InvalidRequest(RequestError):
    """The request does not fit the model: names, shapes, types, sizes. The client's fault; a retry will not help."""


class MessageTooLarge(RequestError):
    """The message has more bytes, or more parts, than the server takes. A retry will not help."""


class UnknownMethod(RequestError):
    """The RPC, or the way in which its messages are compressed, is not one that is served."""


class ModelNotFound(RequestError):
    """No such model, or no such version of it, is in the repository."""


class ModelNotReady(RequestError):
    """The model is known but cannot answer: still loading, or refused at load for the reason in the text."""


class Overloaded(RequestError):
    """The work was refused at the door: the queue is full, or the work could not be done in time. Retry elsewhere."""


class TooLate(Overloaded):
    """The work ahead makes the request's deadline impossible. Retry elsewhere."""


class Draining(RequestError):
    """The server is stopping and takes no new work. Retry elsewhere."""


class PeerTooSlow(RequestError):
    """The request's bytes did not come in time. Retry, elsewhere or over a better connection."""


class DeadlineExceeded(RequestError):
    """The request's deadline passed before it was run."""


class WaitExpired(RequestError):
    """The request waited longer than the model's queue policy allows. Retry elsewhere."""


class Unauthenticated(RequestError):
    """The server wants a token, and none came or an unknown one. The text never says which part of it was wrong."""


class NotPermitted(RequestError):
    """The caller may not do this: its token lacks the scope, or the server was not started with the flag for it."""


class ModelControlOff(RequestError):
    """Models come and go with the repository's files in this mode, not by request."""


class FilesNotTaken(RequestError):
    """A load brought files of its own, as Triton takes them; here files come with the repository only."""


class Cancelled(RequestError):
    """The client gave the request up."""


class ServerFailed(RequestError):
    """The runtime or the server itself failed on a valid request. The details are in the log, never in the answer."""
