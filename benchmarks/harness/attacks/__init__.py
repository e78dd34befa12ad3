"""Clients that mean harm, each a process of its own: for benchmarks/hostile.py and the tests of hostile clients."""
