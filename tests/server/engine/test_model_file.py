import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conveyor_server.core.errors import ModelRejected
from conveyor_server.engine.model_file import read_model_file
from conveyor_server.engine.repository_files import RepositoryFiles
from support.onnx_models import classifier, save


def write(path, model):
    path.write_bytes(model.SerializeToString())
    return path


def with_operator(domain):
    model = classifier()
    model.graph.node.add(op_type="Evil", domain=domain, input=["image"], output=["more"])
    return model


def inside_an_if(node=None, tensor=None):
    """A model whose If node hides a node or a tensor in a branch."""
    model = classifier()
    branch = helper.make_graph([node] if node else [], "branch", [], [], [tensor] if tensor else [])
    model.graph.node.append(helper.make_node("If", ["flag"], ["out"], then_branch=branch, else_branch=branch))
    return model


def external(name="weights"):
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def with_external_data():
    model = classifier()
    model.graph.initializer.append(external())
    return model


def in_a_function(function):
    model = classifier()
    model.functions.append(function)
    model.graph.node.add(op_type=function.name, domain=function.domain, input=["image"], output=["more"])
    return model


def test_a_good_file_is_read_once_and_hashed(tmp_path):
    path = save(classifier(metadata={"conveyor.labels": '["a"]'}), tmp_path, "m")
    file = read_model_file(path, RepositoryFiles(tmp_path))
    assert file.content == path.read_bytes()
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.metadata == {"conveyor.labels": '["a"]'}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (with_external_data(), "the tensor 'weights' is stored outside the model file"),
        (inside_an_if(tensor=external()), "the tensor 'weights' is stored outside the model file"),
        (
            inside_an_if(node=helper.make_node("Constant", [], ["c"], value=external("c"))),
            "the tensor 'c' is stored outside",
        ),
        (with_operator("com.example"), "the operator 'Evil' belongs to the domain 'com.example', which is not served"),
        (inside_an_if(node=helper.make_node("Evil", [], ["x"], domain="evil")), "belongs to the domain 'evil'"),
        (
            in_a_function(
                helper.make_function("mine", "F", [], [], [helper.make_node("Evil", [], [], domain="evil")], [])
            ),
            "belongs to the domain 'evil'",
        ),
        (onnx.ModelProto(), "has a graph without outputs"),
    ],
)
def test_what_must_not_reach_the_runtime_is_refused_with_the_reason(tmp_path, model, reason):
    with pytest.raises(ModelRejected, match=reason):
        read_model_file(write(tmp_path / "model.onnx", model), RepositoryFiles(tmp_path))


def test_functions_that_the_file_brings_along_are_no_foreign_operators(tmp_path):
    function = helper.make_function(
        "mine", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [helper.make_opsetid("", 18)]
    )
    read_model_file(write(tmp_path / "model.onnx", in_a_function(function)), RepositoryFiles(tmp_path))


def test_a_truncated_file_a_foreign_file_and_no_file(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelRejected, match=r"model.onnx cannot be read: No such file"):
        read_model_file(path, RepositoryFiles(tmp_path))
    path.write_bytes(classifier().SerializeToString()[:-100])
    with pytest.raises(ModelRejected, match="is not an ONNX model, or was cut off"):
        read_model_file(path, RepositoryFiles(tmp_path))
    path.write_bytes(b"")
    with pytest.raises(ModelRejected, match="without outputs"):
        read_model_file(path, RepositoryFiles(tmp_path))
    path.unlink()
    path.mkdir()
    with pytest.raises(ModelRejected, match="cannot be read: Is a directory"):
        read_model_file(path, RepositoryFiles(tmp_path))
