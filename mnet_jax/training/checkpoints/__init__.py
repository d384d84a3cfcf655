"""Checkpoints of a run, with everything it needs to continue exactly.

- `checkpoint`: saves and restores them;
- `position`: the position in the training data;
- `manifest`: digests of their files;
- `matching`: whether one belongs to a run.
"""
