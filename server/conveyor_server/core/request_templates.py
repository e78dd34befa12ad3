"""Requests that are the bytes of one before, but for their id and the contents of their one tensor: the usual case.

A client asks for the same outputs of the same model, in the same shape, again and again. What stands around the id is
then compared instead of parsed and checked.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from google.protobuf.message import DecodeError

from conveyor_server.core.model import Array
from conveyor_server.core.varint import varint
from conveyor_server.generated import inference_pb2 as pb

_NAME, _ID, _RAW = (
    pb.ModelInferRequest.DESCRIPTOR.fields_by_name[name].number << 3 | 2
    for name in ("model_name", "id", "raw_input_contents")
)
"""The bytes that these fields begin with."""
_MOST_NAMES = 64
_MOST_OF_A_NAME = 8
_SHORT = 0x80
"""Strings of fewer bytes have their length in one byte."""

_W = TypeVar("_W")


@dataclass(frozen=True, slots=True)
class Template(Generic[_W]):
    """What is known of all requests that have these bytes around their id.

    Attributes:
        before: what stands in front of the id.
        after: what stands between it and the contents.
        size: bytes of the contents.
        shape: of the tensor, `[rows, …]`.
        dtype: of the tensor.
        rows: how many.
        wish: what such a request asks for, as whoever taught it says.
    """

    before: bytes
    after: bytes
    size: int
    shape: tuple[int, ...]
    dtype: "np.dtype[np.generic]"
    rows: int
    wish: _W

    def tensor(self, data: bytes) -> Array:
        """The contents of a request of this kind, a read-only array of `shape`."""
        return np.ndarray(self.shape, self.dtype, data, len(data) - self.size)  # half the time of `np.frombuffer`


class RequestTemplates(Generic[_W]):
    """The templates that are known; few, so that finding none costs next to nothing."""

    def __init__(self) -> None:
        self._by_name: dict[bytes, list[Template[_W]]] = {}

    def find(self, data: bytes) -> tuple[Template[_W], str] | None:
        """The template of these bytes, and the id of the request; None where the form is not known."""
        if len(data) < 2 or data[0] != _NAME:
            return None
        for template in self._by_name.get(data[2 : 2 + data[1]], ()):
            start = len(template.before)
            end = len(data) - template.size - len(template.after)
            if start <= end and data.startswith(template.before) and data.startswith(template.after, end):
                if start == end:
                    return template, ""
                if data[start] == _ID and data[start + 1] == end - start - 2 < _SHORT:
                    try:
                        return template, data[start + 2 : end].decode()
                    except UnicodeDecodeError:
                        return None
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
        name = request.model_name.encode()
        known = self._by_name.get(name, [])
        if len(known) >= _MOST_OF_A_NAME or (not known and len(self._by_name) >= _MOST_NAMES) or len(name) >= _SHORT:
            return
        if len(request.raw_input_contents) != 1 or tensor.dtype == np.object_ or tensor.dtype == np.bool_:
            return  # its contents are more than numbers
        around = _around_id(data, request)
        if around is not None:
            template = Template(*around, tensor.nbytes, tensor.shape, tensor.dtype, rows, wish)
            self._by_name.setdefault(name, []).append(template)

    def forget(self, template: Template[_W]) -> None:
        """The template is true no more."""
        for name, known in list(self._by_name.items()):
            if template in known:
                known.remove(template)
                if not known:
                    del self._by_name[name]


def _around_id(data: bytes, request: pb.ModelInferRequest) -> tuple[bytes, bytes] | None:
    """What stands before the id, and between it and the contents, if the bytes are in this order.

    Messages that stand one behind the other are one message with the fields of both (protobuf.dev, "Last One Wins"). So
    if what is around the id is, alone, the request without id and contents, then the same with any id and any contents
    in their places is the request with those.
    """
    contents, name = request.raw_input_contents[0], request.id.encode()
    raw_field = bytes([_RAW]) + varint(len(contents))
    id_field = bytes([_ID, len(name)]) + name if 0 < len(name) < _SHORT else b""
    named = pb.ModelInferRequest(model_name=request.model_name, model_version=request.model_version)
    before = named.SerializeToString()
    end = len(data) - len(contents) - len(raw_field)
    if not data.startswith(before + id_field) or not data.startswith(raw_field, max(end, 0)):
        return None
    between = data[len(before) + len(id_field) : end]
    without = pb.ModelInferRequest()
    without.CopyFrom(request)
    without.id = ""
    del without.raw_input_contents[:]
    try:
        alone = pb.ModelInferRequest.FromString(before + between)
    except DecodeError:
        return None
    return (before, between + raw_field) if alone == without else None
