"""The wire contract must not drift from what public clients speak."""

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from conveyor_server.generated import inference_pb2
from conveyor_server.generated import model_config_pb2 as our_config

THEIRS = {
    **service_pb2.DESCRIPTOR.message_types_by_name,
    **model_config_pb2.DESCRIPTOR.message_types_by_name,
}
OURS = {**inference_pb2.DESCRIPTOR.message_types_by_name, **our_config.DESCRIPTOR.message_types_by_name}
OUR_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def fields(message: Descriptor) -> dict:
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type.full_name if field.message_type else None,
            field.enum_type.full_name if field.enum_type else None,
            field.containing_oneof.name if field.containing_oneof else None,
        )
        for field in message.fields
    }


def enums(holder) -> dict:
    return {enum.full_name: {value.name: value.number for value in enum.values} for enum in holder.enum_types}


def assert_same(ours: Descriptor, theirs: Descriptor) -> None:
    assert ours.full_name == theirs.full_name
    assert fields(ours) == fields(theirs)
    assert enums(ours) == enums(theirs)
    assert ours.nested_types_by_name.keys() == theirs.nested_types_by_name.keys()
    for name, nested in ours.nested_types_by_name.items():
        assert_same(nested, theirs.nested_types_by_name[name])


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_message_is_the_protocols(name):
    assert_same(OURS[name], THEIRS[name])


def test_the_configuration_is_complete():
    assert (
        our_config.DESCRIPTOR.message_types_by_name.keys() == model_config_pb2.DESCRIPTOR.message_types_by_name.keys()
    )


def test_datatypes_are_the_protocols():
    def values(enum: EnumDescriptor) -> dict:
        return {value.name: value.number for value in enum.values}

    assert values(our_config.DataType.DESCRIPTOR) == values(model_config_pb2.DataType.DESCRIPTOR)


@pytest.mark.parametrize("method", OUR_SERVICE.methods_by_name)
def test_every_rpc_is_the_protocols(method):
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name[method]
    ours = OUR_SERVICE.methods_by_name[method]
    assert ours.full_name == theirs.full_name
    assert ours.input_type.full_name == theirs.input_type.full_name
    assert ours.output_type.full_name == theirs.output_type.full_name
    assert (ours.client_streaming, ours.server_streaming) == (theirs.client_streaming, theirs.server_streaming)


def test_our_messages_live_beside_a_public_clients_in_one_process():
    ours = inference_pb2.ModelInferRequest(model_name="digits", raw_input_contents=[b"1234"])
    theirs = service_pb2.ModelInferRequest.FromString(ours.SerializeToString())
    assert theirs.model_name == "digits"
    assert inference_pb2.ModelInferRequest.FromString(theirs.SerializeToString()) == ours
