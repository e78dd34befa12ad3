"""Models that Keras 2 on TensorFlow has saved itself: ours gives what its `predict` gives.

Run by `make test-legacy-keras`: TensorFlow is a gigabyte, and Keras 2 changes no more. `make test` has files with the
traits that were found here.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from conveyor_exporter.sources.keras_file import read_keras

PYTHON = Path(__file__).parents[2] / ".tools" / "tensorflow-2.15" / "bin" / "python"
PROGRAM = Path(__file__).parents[1] / "support" / "save_keras_models.py"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    assert PYTHON.exists(), "run this test with: make test-legacy-keras"
    folder = tmp_path_factory.mktemp("keras")
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([PYTHON, PROGRAM, folder], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.timeout(600)  # TensorFlow traces every model anew
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_answers_are_keras(saved, suffix):
    paths = sorted(saved.glob(f"*{suffix}"))
    assert len(paths) >= 60
    differing = []
    for path in paths:
        model = read_keras(path)
        assert model.keras_version is not None
        assert model.keras_version.startswith("2.")
        with np.load(path.with_suffix(".npz")) as arrays:
            difference = float(np.abs(model.network.predict(arrays["x"]) - arrays["y"]).max())
        if not difference <= 1e-5:
            differing.append((path.name, difference))
    assert differing == []
