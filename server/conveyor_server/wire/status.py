"""The one table from our errors to gRPC's status codes. Knows the numbers of the protocol, not the library."""

from enum import IntEnum

from conveyor_server.core import errors


class Status(IntEnum):
    """The status codes of gRPC that this server sends."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


STATUS_OF: dict[type[errors.RequestError], Status] = {
    errors.InvalidRequest: Status.INVALID_ARGUMENT,
    errors.MessageTooLarge: Status.RESOURCE_EXHAUSTED,  # what gRPC's own libraries answer to it
    errors.UnknownMethod: Status.UNIMPLEMENTED,
    errors.ModelNotFound: Status.NOT_FOUND,
    errors.Unauthenticated: Status.UNAUTHENTICATED,
    errors.NotPermitted: Status.PERMISSION_DENIED,
    # Balancers send these to another replica.
    errors.ModelNotReady: Status.UNAVAILABLE,
    errors.Overloaded: Status.UNAVAILABLE,
    errors.TooLate: Status.UNAVAILABLE,
    errors.Draining: Status.UNAVAILABLE,
    errors.PeerTooSlow: Status.UNAVAILABLE,
    errors.WaitExpired: Status.UNAVAILABLE,
    errors.DeadlineExceeded: Status.DEADLINE_EXCEEDED,
    errors.ModelControlOff: Status.UNAVAILABLE,
    errors.Cancelled: Status.CANCELLED,
    errors.FilesNotTaken: Status.INTERNAL,  # what Triton says of files that it can make no model of; clients look at it
    errors.ServerFailed: Status.INTERNAL,
}
