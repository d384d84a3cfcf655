"""The training loop and its parts. They take an apply function and batches, and know no model."""
