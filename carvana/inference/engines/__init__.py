"""What runs a network: ONNX Runtime, and the export to it."""
