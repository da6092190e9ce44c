"""What evaluation and deployment share, on NumPy and OpenCV alone (but for ``ext_library``, which is about Paddle):
finding and reading images, resizing, pasting, encoding, drawing, writing results."""
