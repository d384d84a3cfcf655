"""The training loop and its parts: they take an apply function and batches, and know no model."""
