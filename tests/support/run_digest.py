"""A hash of everything that a run leaves."""

import dataclasses
import hashlib
import json

import jax
import numpy as np
import orbax.checkpoint as ocp

TIMES = ("seconds", "images_per_second")


def digest(directory, result):
    """A hash of the last checkpoint, the scalars and the result, but for times."""
    manager = ocp.CheckpointManager((directory / "checkpoints").absolute())
    step = manager.latest_step()
    saved = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))
    manager.close()
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(saved.state):
        found.update(jax.tree_util.keystr(path).encode())
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found.update(np.asarray(leaf).tobytes())
    position = directory / "checkpoints" / str(step) / "data" / "process_0-of-1.json"
    found.update(position.read_bytes())
    plain = dataclasses.asdict(result)
    for record in (plain, *plain["history"]):
        for name in TIMES:
            record.pop(name)
    found.update(json.dumps(plain).encode())
    for line in (directory / "scalars.jsonl").read_text().splitlines():
        found.update(
            json.dumps({k: v for k, v in json.loads(line).items() if k not in TIMES}).encode()
        )
    return found.hexdigest()
