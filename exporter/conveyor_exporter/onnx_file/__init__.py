"""The ONNX file: how a network becomes one, in which forms, what it says about itself, what can be read off it."""
