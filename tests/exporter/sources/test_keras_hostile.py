"""Zip and HDF5 that somebody has tampered with: refused by name of the member, the layer or the dataset."""

import io
import os
import struct
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

from conveyor_exporter import load_keras
from conveyor_exporter.errors import ModelFileRefused
from support import keras_files
from support.keras_files import archive, archive_weights, config, layer, legacy, replace_dataset

KERNEL = "layers/dense/vars/0"
KERNEL_SHAPE = (24, 3)


def refusal(folder, content, name="model.keras"):
    path = folder / name
    path.write_bytes(content)
    with pytest.raises(ModelFileRefused) as refused:
        load_keras(path)
    return str(refused.value)


def zipped(*members, flags=0, method=zipfile.ZIP_STORED, **written):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, value in members:
            file.writestr(name, value, **written)
    return buffer.getvalue()


GOOD = {"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": b""}


@pytest.mark.parametrize(
    "name",
    ["../config.json", "/etc/passwd", "..\\x", "c:\\x", "a/../../b", "\\x"],
)
def test_members_that_point_outside_are_refused(tmp_path, name):
    assert "points outside" in refusal(tmp_path, archive(members={name: b""}))


@pytest.mark.parametrize("name", ["assets/vocabulary.txt", "evil.py", "config.json\x1b[31m"])
def test_members_that_keras_does_not_write_are_refused(tmp_path, name):
    message = refusal(tmp_path, archive(members={name: b""}))
    assert "member that no plain Keras model has" in message
    assert "\x1b" not in message


@pytest.mark.parametrize("name", ["model.weights.json", "model.weights.npz"])
def test_split_weights_are_refused_with_advice(tmp_path, name):
    assert "model.save('model.keras')" in refusal(tmp_path, archive(members={name: b""}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_members_are_refused(tmp_path):
    assert "more than one member 'config.json'" in refusal(tmp_path, zipped(*GOOD.items(), ("config.json", b"{}")))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_missing_members_are_refused(tmp_path, name):
    content = zipped(*((key, value) for key, value in GOOD.items() if key != name))
    assert f"no member {name!r}" in refusal(tmp_path, content)


def test_encrypted_members_are_refused(tmp_path):
    content = bytearray(archive())
    place = content.rindex(b"PK\x01\x02")  # the weights' entry in the central directory; its flags lie 8 bytes further
    content[place + 8] |= 1
    assert "encrypted" in refusal(tmp_path, bytes(content))


def test_unusual_packing_is_refused(tmp_path):
    assert "unusual way" in refusal(tmp_path, archive(compression=zipfile.ZIP_LZMA))


def test_zip_bombs_are_refused(tmp_path):
    bomb = archive(weights=bytes(50 << 20), compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    assert "zip bomb" in refusal(tmp_path, bomb)
    assert "'config.json' unpacks to" in refusal(tmp_path, archive(" " * (5 << 20)))


def test_a_declared_size_that_lies_is_refused(tmp_path):
    content = bytearray(archive(compression=zipfile.ZIP_DEFLATED))
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = content.rindex(signature) + offset
        struct.pack_into("<L", content, place, 1000)
    assert "the zip is damaged" in refusal(tmp_path, bytes(content))


def test_thousands_of_members_are_refused_before_they_are_listed(tmp_path):
    content = zipped(*((f"member{number}", b"") for number in range(2000)))
    assert "far more members" in refusal(tmp_path, content)


def test_zip64_is_refused(tmp_path):
    content = archive()
    end = content.rindex(b"PK\x05\x06")
    locator = b"PK\x06\x07" + bytes(16)
    assert "far more members" in refusal(tmp_path, content[:end] + locator + content[end:])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("make", [archive, legacy])
def test_truncated_files_are_refused(tmp_path, make, share):
    content = make()
    refusal(tmp_path, content[: int(len(content) * share)])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_weights_are_refused(tmp_path, share):
    weights = archive_weights()
    message = refusal(tmp_path, archive(weights=weights[: int(len(weights) * share)]))
    assert "model.weights.h5: it " in message
    assert "is truncated" in message or "its beginning is damaged" in message


def soft_link(file):
    del file[KERNEL]
    file[KERNEL] = h5py.SoftLink("/layers/conv2d/vars/0")


def external_link(file):
    del file["layers/dense"]
    file["layers/dense"] = h5py.ExternalLink("/etc/passwd", "/x")


def external_data(file):
    replace_dataset(file, KERNEL, shape=KERNEL_SHAPE, dtype="<f4", external=[("/etc/passwd", 0, 288)])


def virtual(file):
    layout = h5py.VirtualLayout(KERNEL_SHAPE, "<f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", KERNEL_SHAPE)
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


def compressed(file):
    replace_dataset(file, KERNEL, data=np.zeros(KERNEL_SHAPE, "<f4"), compression="gzip")


def chunked(file):
    replace_dataset(file, KERNEL, shape=KERNEL_SHAPE, dtype="<f4", chunks=(1, 1))


def not_stored(file):
    replace_dataset(file, KERNEL, shape=KERNEL_SHAPE, dtype="<f4")


def other_shape(file):
    replace_dataset(file, KERNEL, data=np.zeros((3, 24), "<f4"))


def scalar(file):
    replace_dataset(file, KERNEL, data=np.float32(1))


def null(file):
    replace_dataset(file, KERNEL, data=h5py.Empty("<f4"))


def other_type(file):
    replace_dataset(file, KERNEL, data=np.zeros(KERNEL_SHAPE, "<f8"))


def integers(file):
    replace_dataset(file, KERNEL, data=np.zeros(KERNEL_SHAPE, "<i4"))


def opaque(file):
    replace_dataset(file, KERNEL, data=np.zeros(KERNEL_SHAPE, "V2")).attrs["dtype"] = "float8"


def texts(file):
    replace_dataset(file, KERNEL, data=np.full(KERNEL_SHAPE, b"abcd"))


def not_finite(file):
    file[KERNEL][3, 1] = np.nan


def infinite(file):
    file[KERNEL][3, 1] = -np.inf


def missing(file):
    del file[KERNEL]


def one_too_many(file):
    file["layers/dense/vars/2"] = np.zeros(3, "<f4")


def group_instead(file):
    del file[KERNEL]
    file.create_group(KERNEL)


def type_instead(file):
    del file[KERNEL]
    file[KERNEL] = np.dtype("<f4")


def another_layer(file):
    file.create_group("layers/conv2d_1/vars")


def other_name(file):
    file["layers/dense/vars"].attrs["name"] = "first"


def name_is_a_number(file):
    file["layers/dense/vars"].attrs["name"] = 3


def many_members(file):
    group = file["layers"]
    for number in range(5100):
        group.create_group(str(number))


def cycle(file):
    del file["layers/dense"]
    file["layers/dense"] = file["layers"]


TAMPERED = [
    (soft_link, "layers/dense/vars/0' is a link"),
    (external_link, "has a link, or a group in a form"),
    (external_data, "'last' .Dense.: 'layers/dense/vars/0' keeps its values in another file"),
    (virtual, "put together from other datasets"),
    (compressed, "packed or in pieces"),
    (chunked, "packed or in pieces"),
    (not_stored, "declares 288 bytes and stores 0"),
    (other_shape, "'last' .* has shape .3, 24., the layer needs .24, 3."),
    (scalar, "the layer needs"),
    (null, "has shape None"),
    (other_type, "holds elements of another type .other, 8 bytes.; float32 is needed"),
    (integers, "another type .other, 4"),
    (opaque, "another type .opaque, 2"),
    (texts, "another type .text, 4"),
    (not_finite, "'last' .*nan or infinite"),
    (infinite, "'last' .*nan or infinite"),
    (missing, "'last' .* needs 2 weights .kernel, bias.* the file has 1"),
    (one_too_many, "the file has 3"),
    (group_instead, "there is no dataset"),
    (type_instead, "there is no dataset"),
    (another_layer, "'conv2d_1' that the model does not have"),
    (other_name, "those of a layer 'first'"),
    (name_is_a_number, "must be text"),
    (many_members, "more than 5000 members"),
    (cycle, "needs 2 weights"),
]


@pytest.mark.parametrize(("change", "message"), TAMPERED, ids=[change.__name__ for change, _ in TAMPERED])
def test_tampered_weights_are_refused(tmp_path, change, message):
    path = tmp_path / "model.keras"
    path.write_bytes(archive(weights=archive_weights(change)))
    with pytest.raises(ModelFileRefused, match=message):
        load_keras(path)


def test_the_order_of_layers_of_one_class_is_checked(tmp_path):
    model = config()
    model["config"]["layers"][3]["config"]["units"] = 24
    model["config"]["layers"].append(keras_files.entry("Dense", "more", units=24))
    arrays = [np.zeros((24, 24), "<f4"), np.zeros(24, "<f4")]

    def swap(file):
        del file["layers/dense"]
        for group, name in (("dense", "more"), ("dense_1", "last")):
            variables = file.create_group(f"layers/{group}/vars")
            variables.attrs["name"] = name
            for number, array in enumerate(arrays):
                variables.create_dataset(str(number), data=array)

    assert "'last' (Dense) are those of a layer 'more'" in refusal(tmp_path, archive(model, archive_weights(swap)))


LEGACY_TAMPERED = [
    (lambda f: f["model_weights"].attrs.__setitem__("layer_names", np.array([b"last", b"first"])), "in this order"),
    (
        lambda f: f["model_weights"].attrs.__setitem__("layer_names", np.array([b"first"])),
        "the model needs 'first, last'",
    ),
    (lambda f: f["model_weights"].attrs.__setitem__("layer_names", np.array([1, 2])), "must be text"),
    (lambda f: f["model_weights"].attrs.__setitem__("layer_names", np.array([[b"first"]])), "has the shape"),
    (lambda f: f["model_weights"].attrs.__setitem__("layer_names", np.array([b"../x"])), "'../x'.* is missing"),
    (lambda f: f["model_weights"].attrs.__delitem__("layer_names"), "`layer_names`, is missing"),
    (lambda f: f["model_weights/last"].attrs.__delitem__("weight_names"), "`weight_names`, is missing"),
    (
        lambda f: f["model_weights/last"].attrs.__setitem__("weight_names", np.array([b"last/bias", b"last/kernel"])),
        "needs the weights kernel, bias",
    ),
    (
        lambda f: f["model_weights/last"].attrs.__setitem__("weight_names", np.array([b"last/kernel", b"/last/bias"])),
        "there is no dataset",
    ),
    (
        lambda f: f["model_weights/last"].attrs.__setitem__("weight_names", np.array([b"a/../kernel", b"last/bias"])),
        "there is no dataset",
    ),
    (lambda f: f.attrs.__setitem__("model_config", "{"), "model_config is not JSON"),
    (lambda f: f.attrs.__setitem__("model_config", 3), "must be text"),
    (lambda f: f.attrs.__setitem__("model_config", np.array([b"{}", b"{}"])), "has the shape"),
    (lambda f: f.attrs.__delitem__("model_config"), "no description of the model"),
    (lambda f: f.attrs.__setitem__("training_config", "[]"), "training_config must be a JSON object"),
]


@pytest.mark.parametrize(("change", "message"), LEGACY_TAMPERED)
def test_tampered_legacy_files_are_refused(tmp_path, change, message):
    path = tmp_path / "model.h5"
    path.write_bytes(legacy(change=change))
    with pytest.raises(ModelFileRefused, match=message):
        load_keras(path)


def test_split_lists_of_names_are_joined(tmp_path):
    def split(file):
        group = file["model_weights"]
        del group.attrs["layer_names"]
        group.attrs["layer_names0"] = np.array([b"first", b"flatten"])
        group.attrs["layer_names1"] = np.array([b"last"])

    path = tmp_path / "model.h5"
    path.write_bytes(legacy(change=split))
    assert len(load_keras(path).layers) == 3


def test_texts_that_multiply_in_memory_are_refused(tmp_path):
    """A list of names is a list of references: a thousand of them to one long text would take a thousand times it."""

    def write(file):
        file.attrs["long"] = "x" * 3_000_000
        file["model_weights"].attrs["layer_names"] = np.array(["first"] * 1000, dtype=object)

    content = bytearray(legacy(change=write))
    long = content.index(struct.pack("<I", 3_000_000))
    start = next(place for place in range(0, len(content), 4) if references_to_five_letters(content, place))
    content[start : start + 16_000] = bytes(content[long : long + 16]) * 1000
    tracemalloc.start()
    try:
        message = refusal(tmp_path, bytes(content), "model.h5")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    assert "text that is too long" in message


def references_to_five_letters(content, place):
    return all(content[at : at + 4] == struct.pack("<I", 5) for at in range(place, place + 160, 16))


def test_parts_that_refer_to_one_another_are_refused(tmp_path):
    """A node of the tree of members that is its own child, and a description that goes on at its own beginning."""
    content = archive_weights()
    tree = content.index(b"TREE")
    circle = content[: tree + 32] + struct.pack("<Q", tree) + content[tree + 40 :]
    assert "form no tree" in refusal(tmp_path, archive(weights=circle))
    root = struct.unpack_from("<Q", content, 64)[0]
    message = struct.pack("<HHB3xQQ", 0x10, 16, 0, root + 16, 24)
    endless = content[: root + 8] + struct.pack("<I4x", 24) + message + content[root + 40 :]
    assert "without end" in refusal(tmp_path, archive(weights=endless))


def test_weights_alone_are_refused_with_advice(tmp_path):
    message = refusal(tmp_path, archive_weights(), "model.weights.h5")
    assert "holds weights only" in message
    assert "model.save('model.keras')" in message
    assert "weights only" in refusal(tmp_path, b"{}", "model.weights.json")


def test_what_is_no_model_file_is_refused(tmp_path):
    assert "is a folder (a SavedModel?)" in refusal_of(tmp_path)
    assert "No such file" in refusal_of(tmp_path / "nothing.keras")
    assert "neither a .keras file nor HDF5" in refusal(tmp_path, b"")
    assert "neither a .keras file nor HDF5" in refusal(tmp_path, b"\x80\x04pickle")
    os.mkfifo(tmp_path / "pipe.keras")
    assert "is not a file" in refusal_of(tmp_path / "pipe.keras")
    assert "is not a file" in refusal_of("/dev/zero")


def refusal_of(path):
    with pytest.raises(ModelFileRefused) as refused:
        load_keras(path)
    return str(refused.value)


def test_too_large_files_are_refused(tmp_path):
    path = tmp_path / "large.keras"
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate((512 << 20) + 1)
    assert "is larger than" in refusal_of(path)


def test_a_shape_bomb_takes_no_memory(tmp_path):
    """The description and the dataset agree on 134 million values; the file has a few bytes of them."""
    model = config()
    layer(model, "last")["config"]["units"] = 1 << 21

    def declare(file):
        replace_dataset(file, KERNEL, shape=(24, 1 << 21), dtype="<f4", fillvalue=1)
        replace_dataset(file, "layers/dense/vars/1", shape=(1 << 21,), dtype="<f4", fillvalue=1)

    content = archive(model, archive_weights(declare))
    assert len(content) < 50_000
    tracemalloc.start()
    try:
        message = refusal(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    assert "declares" in message
