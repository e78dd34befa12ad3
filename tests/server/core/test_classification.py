import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conveyor_server.core.byte_strings import MAX_STRINGS
from conveyor_server.core.classification import CLASSIFIED, MAX_CLASSES, classify
from conveyor_server.core.errors import InvalidRequest
from conveyor_server.core.model import NUMPY_TYPES


def test_the_best_classes_of_each_row_with_six_decimals_index_and_label():
    output = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]], np.float32)
    classes = classify(output, 2, batched=True, labels=["cat", "dog"])
    assert classes.tolist() == [["0.700000:1:dog", "0.200000:2"], ["0.500000:0:cat", "0.250000:1:dog"]]


def test_whole_numbers_have_no_decimals():
    assert classify(np.array([[3, -7, 5]], np.int8), 3, batched=True).tolist() == [["5:2", "3:0", "-7:1"]]
    top = np.iinfo(np.uint64).max
    assert classify(np.array([[1, top]], np.uint64), 1, batched=True).tolist() == [[f"{top}:1"]]


def test_all_axes_but_the_batch_are_classes():
    output = np.arange(8.0).reshape(2, 2, 2)
    assert classify(output, 1, batched=True).tolist() == [["3.000000:3"], ["7.000000:3"]]
    assert classify(output, 2, batched=False).tolist() == ["7.000000:7", "6.000000:6"]
    assert classify(np.float64(3).reshape(()), 2, batched=False).tolist() == ["3.000000:0"]


def test_what_is_not_a_number_comes_last():
    output = np.array([[np.nan, 1, -np.inf, np.inf]])
    assert [text.split(":")[1] for text in classify(output, 4, batched=True)[0]] == ["3", "1", "0", "2"]


def test_rows_too_long_to_sort_are_refused():
    with pytest.raises(InvalidRequest, match="classification output tensor too large"):
        classify(np.zeros((1, MAX_CLASSES + 1), np.uint8), 1, batched=True)


def test_more_strings_than_are_made_for_one_client_are_refused():
    output = np.zeros((1024, 1000), np.float32)
    with pytest.raises(InvalidRequest, match=f"1000 classes of each of 1024 rows.*have {MAX_STRINGS} in all"):
        classify(output, 5000, batched=True)
    assert classify(output, 5, batched=True).shape == (1024, 5)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0,)])
def test_nothing_gives_nothing(shape):
    assert classify(np.zeros(shape), 5, batched=True).size == 0


@given(
    st.sampled_from(sorted(CLASSIFIED)).flatmap(
        lambda name: hnp.arrays(NUMPY_TYPES[name], hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    ),
    st.integers(1, 8),
)
def test_classes_are_the_highest_values_and_equal_ones_keep_their_order(output, count):
    if np.isnan(output.astype(np.float64)).any():
        return
    for row, strings in zip(output, classify(output, count, batched=True), strict=True):
        indices = [int(text.split(":")[1]) for text in strings]
        assert indices == sorted(range(len(row)), key=lambda index: (-row[index].item(), index))[:count]
