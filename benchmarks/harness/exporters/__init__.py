"""Ways from a network to an ONNX file, side by side: the same networks, the same weights, one measure for all."""
