"""Code shared by evaluation and deployment: finding and reading images, resizing, mask pasting, encoding, drawing and
writing results. It only requires NumPy and OpenCV, except for ``ext_library``, which requires Paddle."""
