"""Engines that run a network: PyTorch, ONNX Runtime and OpenVINO; which of them; and the export to files."""
