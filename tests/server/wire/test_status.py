from conveyor_server.core import errors
from conveyor_server.wire.status import STATUS_OF


def descendants(kind):
    return {child for direct in kind.__subclasses__() for child in {direct, *descendants(direct)}}


def test_every_error_that_a_client_can_see_has_its_code_in_the_table():
    assert set(STATUS_OF) == descendants(errors.RequestError)


def test_errors_have_one_root():
    defined = {value for value in vars(errors).values() if isinstance(value, type)}
    assert defined - {errors.ConveyorError} <= descendants(errors.ConveyorError)
