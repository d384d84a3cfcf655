"""Checkpoints of a run, with everything it needs to continue exactly.

- `checkpoint`: saves, keeps and restores them;
- `position`: the position of the training batches;
- `manifest`: digests of their files, to detect damage;
- `matching`: whether one belongs to a run.
"""
