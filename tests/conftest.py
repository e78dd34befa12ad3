"""For all tests, and for the processes that they start."""

import os
import signal

# The networks of the tests are small: a second thread of torch costs more than it brings, much more on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# One process where a test does not ask for several: on two cores it would be two, and twice the time of each start.
os.environ.setdefault("CONVEYOR_WORKERS", "1")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
