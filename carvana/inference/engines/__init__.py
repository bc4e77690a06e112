"""Engines that run a network: PyTorch and ONNX Runtime; and the export to ONNX."""
