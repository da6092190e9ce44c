"""Several processes that train or evaluate together, and how all of them end when one does."""
