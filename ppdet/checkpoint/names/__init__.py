"""Parameter names of other implementations, one file per source."""
