"""Responses as bytes, of which all that repeats is made once. The counterpart of `tensors.decode_inputs`.

Fields of a message may stand in any order and in pieces (protobuf.dev, "Encoding"), so a response is put together from
pieces that protobuf has serialised before: who answers, and for each output its name, datatype and shape.
"""

from collections.abc import Sequence

from conveyor_server.core.byte_strings import encode_byte_strings
from conveyor_server.core.model import Array, ModelSpec
from conveyor_server.core.varint import varint
from conveyor_server.generated import inference_pb2 as pb

_ID = bytes([pb.ModelInferResponse.ID_FIELD_NUMBER << 3 | 2])
_RAW = bytes([pb.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER << 3 | 2])
_MOST_PIECES = 4096


class ResponseEncoder:
    """Makes the responses of one model.

    Args:
        spec: its signature.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._head = pb.ModelInferResponse(model_name=spec.name, model_version=str(spec.version)).SerializeToString()
        self._pieces: dict[tuple[int, tuple[int, ...]], bytes] = {}

    def encode(self, outputs: Sequence[Array], wanted: Sequence[int], request_id: str) -> bytes:
        """A serialised ModelInferResponse with some of the outputs as raw contents.

        Args:
            outputs: arrays in the order of the model's outputs; one of `str` objects is sent as BYTES, whatever it was
                in the model.
            wanted: positions of those that are sent, in the order in which the client asked for them.
            request_id: the client's name for the request; empty for none.
        """
        parts = [self._head]
        if request_id:
            name = request_id.encode()
            parts += (_ID, varint(len(name)), name)
        for index in wanted:
            array = outputs[index]
            if array.dtype.hasobject:
                raw = encode_byte_strings(array)
                parts += (self._piece(index, array.shape, "BYTES", len(raw)), raw)
                continue
            piece = self._pieces.get((index, array.shape))
            if piece is None:
                piece = self._piece(index, array.shape, self._spec.outputs[index].datatype, array.nbytes)
                if len(self._pieces) < _MOST_PIECES:
                    self._pieces[index, array.shape] = piece
            parts += (piece, array.tobytes())
        return b"".join(parts)

    def _piece(self, index: int, shape: Sequence[int], datatype: str, size: int) -> bytes:
        """Everything about an output that stands in front of its contents."""
        response = pb.ModelInferResponse()
        response.outputs.add(name=self._spec.outputs[index].name, datatype=datatype, shape=shape)
        return response.SerializeToString() + _RAW + varint(size)
