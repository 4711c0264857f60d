"""Targets, one file each: they export a model (ONNX Runtime, OpenVINO, TFLite, TensorRT, torch) and run its file."""
