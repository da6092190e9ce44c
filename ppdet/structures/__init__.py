"""What crosses a module boundary, typed, with shapes in the docstrings."""
