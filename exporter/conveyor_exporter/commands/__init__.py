"""The commands of `conveyor-export`, one module each, with its arguments and its help.

All of them load for `--help`, so what is heavy (numpy, torch, onnx) is imported inside the functions.
"""
