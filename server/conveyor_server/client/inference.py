"""Inference as steps without I/O: arrays in, arrays out, alone or in one request with other calls."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, TypeVar

from numpy.typing import ArrayLike

from conveyor_server.client.arrays import Outputs, decode, encode
from conveyor_server.client.asking import MODEL_INFER, Asking, Steps
from conveyor_server.client.descriptions import ModelDescription
from conveyor_server.client.errors import CallError, InvalidRequest, NotFound, ServerError, TooLarge
from conveyor_server.client.gathering import Gathered, Gathering, Member
from conveyor_server.client.infer_request import TensorHead, Wish, compose
from conveyor_server.client.model_descriptions import ModelDescriptions
from conveyor_server.generated import inference_pb2 as pb

_R = TypeVar("_R")

Contents = tuple[memoryview, ...]
"""The raw contents of each input of a call."""


class Kind(NamedTuple):
    """What calls must have in common to share a request."""

    wish: Wish
    rows: tuple[TensorHead, ...]
    """The inputs, their shapes without the batch axis."""


class Join(NamedTuple):
    """Step: let a call travel with others; what comes of it is an `Outcome`, or a `CallError` is raised."""

    kind: Kind
    member: Member[Contents]
    limit: int
    """Rows that the model takes at once."""


class Alone(Enum):
    """Something in the request was wrong, maybe not this call's part: it is to be asked alone."""

    ALONE = "alone"


Outcome = Outputs | CallError | Alone

_ONE_MEMBERS_FAULT = (InvalidRequest, TooLarge, ServerError)
"""Errors that the rows of one call may bring upon all that travel with it."""


class Inference:
    """The inferences of one client.

    Args:
        asking: how the server is asked.
        descriptions: what is known of its models.
        gathering: None where every call travels alone.
        delay: seconds that a call may have to wait for company.
    """

    def __init__(
        self,
        asking: Asking,
        descriptions: ModelDescriptions,
        gathering: Gathering[Contents] | None,
        delay: float,
    ) -> None:
        self._asking = asking
        self._descriptions = descriptions
        self._gathering = gathering
        self._delay = delay

    def infer(
        self,
        wish: Wish,
        inputs: Callable[[ModelDescription], Mapping[str, ArrayLike]],
        request_id: str,
        timeout: float | None,
        read: Callable[[Outputs, ModelDescription], _R],
    ) -> Steps[_R]:
        """What `read` makes of the outputs for what `inputs` makes of the model's description.

        A new version may have another signature. Where one that is remembered leads to an error, the server is asked,
        and if its model is another one now, there is a second attempt.
        """
        deadline = self._asking.deadline(timeout)
        remembered = self._descriptions.remembered(wish.model, wish.version)
        description = remembered or (yield from self._descriptions.ask(wish.model, wish.version, deadline))
        while True:
            try:
                heads, contents = _encode(inputs(description), description)
                outputs = yield from self._send(wish, heads, contents, request_id, description, deadline)
                break
            except (NotFound, TypeError, ValueError) as error:  # InvalidRequest is a ValueError
                if description is not remembered:
                    raise
                changed = yield from self._descriptions.ask_whether_changed(
                    wish.model, wish.version, description, deadline
                )
                if changed is None:
                    raise error from None
                description = changed
        return read(outputs, description)

    def send_gathered(self, request: Gathered[Contents]) -> Steps[list[Outcome]]:
        """What comes of each member of a request that leaves, in their order."""
        members = request.members
        kind = request.kind
        assert isinstance(kind, Kind)
        heads = tuple(TensorHead(name, datatype, (request.rows, *shape)) for name, datatype, shape in kind.rows)
        columns = zip(*(member.content for member in members), strict=True)
        try:
            message = compose(kind.wish, heads, [memoryview(b"".join(column)) for column in columns])
            outputs = self._read((yield from self._asking.ask(MODEL_INFER, message, request.deadline)))
        except _ONE_MEMBERS_FAULT as error:
            if len(members) == 1:
                return [error]
            yield from self._learn(error, request, kind.wish)
            return [Alone.ALONE] * len(members)
        except CallError as error:
            return [error.copy() for _ in members]
        if any(array.shape[:1] != (request.rows,) for array in outputs.values()):
            return [Alone.ALONE] * len(members)  # a model whose answer has not a row for each row
        return _divide(outputs, [member.rows for member in members])

    def _learn(self, error: CallError, request: Gathered[Contents], wish: Wish) -> Steps[None]:
        """It may not be a member's fault, but the next request's, too."""
        if isinstance(error, InvalidRequest):  # the model may take fewer rows than it did
            yield from self._descriptions.ask_whether_changed(wish.model, wish.version, None, request.deadline)
        if isinstance(error, TooLarge) and self._gathering is not None:
            self._gathering.max_bytes = min(self._gathering.max_bytes, request.size // 2)

    def _send(
        self,
        wish: Wish,
        heads: tuple[TensorHead, ...],
        contents: Contents,
        request_id: str,
        description: ModelDescription,
        deadline: float,
    ) -> Steps[Outputs]:
        # A call with an id wants to be found by it in the server's log. One without the time to wait does not wait.
        if self._gathering is not None and not request_id and deadline - self._asking.clock() > self._delay:
            join = _join(wish, heads, contents, description.max_batch_size, deadline)
            if self._gathering.fits(join.member.rows, join.member.size, join.limit):
                outcome = yield join
                if isinstance(outcome, Outputs):
                    return outcome
        message = compose(wish, heads, contents, request_id)
        return self._read((yield from self._asking.ask(MODEL_INFER, message, deadline)))

    def _read(self, response: pb.ModelInferResponse) -> Outputs:
        try:
            return decode(response)
        except ValueError as error:
            details = f"the answer is not one of this protocol: {error}"
            raise ServerError("INTERNAL", details, self._asking.server) from error


def _encode(inputs: Mapping[str, ArrayLike], description: ModelDescription) -> tuple[tuple[TensorHead, ...], Contents]:
    specs = {tensor.name: tensor for tensor in description.inputs}
    heads: list[TensorHead] = []
    contents: list[memoryview] = []
    for name, value in inputs.items():
        if name not in specs:
            raise ValueError(f"Model '{description.name}' has no input '{name}'; it has {', '.join(specs)}.")
        shape, content = encode(value, specs[name])
        heads.append(TensorHead(name, specs[name].datatype, shape))
        contents.append(content)
    return tuple(heads), tuple(contents)


def _join(wish: Wish, heads: tuple[TensorHead, ...], contents: Contents, limit: int, deadline: float) -> Join:
    """The step of a call that would travel with others. It has no rows if its inputs do not agree on how many."""
    rows = {head.shape[0] if head.shape else 0 for head in heads}
    # Copied now: the caller may change its arrays while the call waits.
    copied = tuple([memoryview(bytes(content)) for content in contents])
    kind = Kind(wish, tuple(TensorHead(name, datatype, shape[1:]) for name, datatype, shape in heads))
    count = rows.pop() if len(rows) == 1 else 0
    return Join(kind, Member(copied, count, sum([content.nbytes for content in copied]), deadline), limit)


def _divide(outputs: Outputs, rows: Sequence[int]) -> list[Outcome]:
    """Each member's rows of every output."""
    outcomes: list[Outcome] = []
    start = 0
    for count in rows:
        own = Outputs({name: array[start : start + count] for name, array in outputs.items()})
        own.model, own.version, own.request_id = outputs.model, outputs.version, ""
        outcomes.append(own)
        start += count
    return outcomes
