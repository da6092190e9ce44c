"""From a trained model to the folder that Paddle Inference runs, and to ONNX."""
