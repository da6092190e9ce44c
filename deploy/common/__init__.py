"""What evaluation and deployment share, on NumPy and OpenCV alone (but for ``ext_library``, which is about Paddle):
reading, resizing, pasting, encoding, drawing."""
