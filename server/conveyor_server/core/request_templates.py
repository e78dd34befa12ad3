"""Requests that are the same bytes as one before, but for the contents of their one tensor: the usual case.

A client asks for the same outputs of the same model, in the same shape, again and again. What stands in front of the
contents is then compared instead of parsed and checked.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from google.protobuf.message import DecodeError

from conveyor_server.core.tensors import Array
from conveyor_server.core.varint import varint
from conveyor_server.generated import inference_pb2 as pb

_RAW = bytes([pb.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2])
_MOST_SIZES = 64
_MOST_OF_A_SIZE = 4

_W = TypeVar("_W")


@dataclass(frozen=True, slots=True)
class Template(Generic[_W]):
    """What is known of all requests that begin with the same bytes and are as long.

    Attributes:
        head: everything in front of the contents.
        size: bytes of the whole request.
        shape: of its tensor, `[rows, …]`.
        dtype: of its tensor.
        rows: how many.
        wish: what such a request asks for, as whoever taught it says.
    """

    head: bytes
    size: int
    shape: tuple[int, ...]
    dtype: "np.dtype[np.generic]"
    rows: int
    wish: _W

    def tensor(self, data: bytes) -> Array:
        """The contents of a request of this kind, a read-only array of `shape`."""
        array: Array = np.frombuffer(data, self.dtype, offset=len(self.head)).reshape(self.shape)
        return array


class RequestTemplates(Generic[_W]):
    """The templates that are known; few, so that finding none costs nothing."""

    def __init__(self) -> None:
        self._by_size: dict[int, list[Template[_W]]] = {}

    def find(self, data: bytes) -> Template[_W] | None:
        """The template of these bytes, or None."""
        for template in self._by_size.get(len(data), ()):
            if data.startswith(template.head):
                return template
        return None

    def learn(self, data: bytes, request: pb.ModelInferRequest, tensor: Array, rows: int, wish: _W) -> None:
        """Takes a request that was found good as an example, if others can be like it.

        Args:
            data: its bytes.
            request: what they say.
            tensor: its one input, as it was decoded: a view of the raw contents.
            rows: how many it has.
            wish: what it asks for.
        """
        known = self._by_size.get(len(data))
        if request.id or len(request.raw_input_contents) != 1 or tensor.dtype == np.object_ or tensor.dtype == np.bool_:
            return  # its bytes differ from request to request, or its contents are more than numbers
        if len(known or ()) >= _MOST_OF_A_SIZE or (known is None and len(self._by_size) >= _MOST_SIZES):
            return
        head = _head(data, request)
        if head is not None:
            template = Template(head, len(data), tensor.shape, tensor.dtype, rows, wish)
            self._by_size.setdefault(len(data), []).append(template)

    def forget(self, template: Template[_W]) -> None:
        """The template is true no more."""
        same = self._by_size.get(template.size, [])
        if template in same:
            same.remove(template)
            if not same:
                del self._by_size[template.size]


def _head(data: bytes, request: pb.ModelInferRequest) -> bytes | None:
    """What stands in front of the raw contents, if these are one field at the very end.

    Messages that stand one behind the other are one message with the fields of both (protobuf.dev, "Last One Wins"), so
    if the head alone is the request without its contents, then the head and any field of contents is that request with
    those contents.
    """
    contents = request.raw_input_contents[0]
    field = _RAW + varint(len(contents))
    start = len(data) - len(contents) - len(field)
    if start < 0 or not data.startswith(field, start) or not data.endswith(contents):
        return None
    without = pb.ModelInferRequest()
    without.CopyFrom(request)
    del without.raw_input_contents[:]
    try:
        alone = pb.ModelInferRequest.FromString(data[:start])
    except DecodeError:
        return None
    return data[: start + len(field)] if alone == without else None
