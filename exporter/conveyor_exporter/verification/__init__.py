"""The proof that an ONNX file gives the answers of the model that it was made from."""
