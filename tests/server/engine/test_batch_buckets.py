import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conveyor_server.engine.batch_buckets import bucket_sizes, pad_to_bucket


@pytest.mark.parametrize(
    ("run_size", "sizes"), [(1, (1,)), (2, (1, 2)), (12, (1, 2, 4, 8, 12)), (16, (1, 2, 4, 8, 16))]
)
def test_sizes(run_size, sizes):
    assert bucket_sizes(run_size) == sizes


@given(st.integers(1, 300), st.integers(1, 256))
def test_rows_stay_and_only_a_few_sizes_come_out(rows, run_size):
    buckets = bucket_sizes(run_size)
    array = np.arange(1, rows + 1, dtype=np.float32)[:, None]
    (padded,) = pad_to_bucket([array], buckets)
    assert len(padded) in buckets or rows > run_size
    np.testing.assert_array_equal(padded[:rows], array)
    assert not padded[rows:].any()
    assert padded.dtype == array.dtype


def test_strings_are_padded_with_empty_ones():
    (padded,) = pad_to_bucket([np.array([["a"], ["b"], ["c"]], object)], (1, 2, 4))
    assert padded.tolist() == [["a"], ["b"], ["c"], [""]]
