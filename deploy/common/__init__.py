"""What evaluation and deployment share, on NumPy and OpenCV alone: reading, resizing, pasting, encoding, drawing."""
