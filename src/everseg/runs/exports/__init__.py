"""What a run has learned as ONNX graphs, with the names that SAM's public runners expect."""
