"""For all tests, and for the processes that they start."""

import os

# The networks of the tests are small: a second thread of torch costs more than it brings, much more on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
