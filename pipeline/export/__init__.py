"""The network for others: ONNX and the model card."""
