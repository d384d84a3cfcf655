"""Checkpoints of a run, with everything that the run needs to continue exactly.

- `checkpoint`: saves and restores checkpoints, and deletes old ones;
- `position`: the position in the training data, as part of a checkpoint;
- `manifest`: digests of a checkpoint's files, to detect damage;
- `matching`: whether a checkpoint belongs to a run.
"""
