"""Files with flipped, cut, copied and removed bytes: the outcome is a model or our error, whatever was hit."""

import contextlib
import resource

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from conveyor_exporter.errors import ExporterError
from conveyor_exporter.sources.keras_file import load_keras
from support.keras_files import archive, archive_weights, config, functional_config, legacy

FILES = {"keras": archive(functional_config()), "h5": legacy(), "weights": archive_weights()}
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "replace", "fill", "cut", "copy", "end"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
        st.sampled_from([1, 2, 4, 8, 64]),
    ),
    min_size=1,
    max_size=6,
)
MEMORY = 300 << 20


def edited(content, edits):
    data = bytearray(content)
    for kind, share, value, size in edits:
        place = int(share * len(data))
        if kind == "flip" and data:
            data[place] ^= 1 << value % 8
        elif kind == "replace" and data:
            data[place] = value
        elif kind == "fill":
            data[place : place + size] = bytes([255 if value % 2 else 0]) * len(data[place : place + size])
        elif kind == "cut":
            del data[place : place + size]
        elif kind == "copy":
            other = place * value // 255
            data[place : place + size] = data[other : other + size]
        elif kind == "end" and value % 4 == 0:
            del data[place:]
    return bytes(data)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.parametrize("kind", sorted(FILES))
@given(edits=EDITS)
@example(edits=[("end", 0.0, 0, 1)])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_our_error_or_a_model(tmp_path, kind, edits):
    content = edited(FILES[kind], edits)
    path = tmp_path / "model"
    path.write_bytes(archive(weights=content) if kind == "weights" else content)
    before = peak()
    with contextlib.suppress(ExporterError):
        assert load_keras(path).built
    assert peak() - before < MEMORY


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("Dense") | st.just(-1),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)


def places(value, path=()):
    """All ways to a part of a JSON value."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


@pytest.mark.parametrize("make", [config, functional_config])
@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_the_description_is_our_error_or_a_model(tmp_path, make, data):
    model = make()
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(model)))
        parent = model
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = data.draw(JSON)
    file = tmp_path / "model.keras"
    file.write_bytes(archive(model))
    before = peak()
    with contextlib.suppress(ExporterError):
        assert load_keras(file).built
    assert peak() - before < MEMORY
