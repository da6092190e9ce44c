"""The typed structures that modules exchange; their docstrings state shapes, units and coordinate frames."""
