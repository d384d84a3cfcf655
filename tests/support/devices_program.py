"""Three steps on 8 virtual devices, for test_devices.py: by jit, by pmap, and on one device.

Prints JSON: how far the states and the evaluations are from those of the single device, relative
to the largest value of each array; and how many collectives there are in training without the
gradients' average.
"""

import dataclasses
import functools
import json
import re

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)  # most of the time is the compiler's

import jax.numpy as jnp
import numpy as np
from small_networks import initial_variables
from tiny_network import make_short_spec

from mnet_jax import models
from mnet_jax.architectures import Separable
from mnet_jax.config import TrainingConfig
from mnet_jax.training import optimizer
from mnet_jax.training.hyperparameters import Hyperparameters, StaticRecipe
from mnet_jax.training.microbatches import in_groups
from mnet_jax.training.placement import BATCH_AXIS, placement
from mnet_jax.training.step import initial_state, make_eval_step, make_train_step

TRAINING = TrainingConfig(learning_rate=0.1, label_smoothing=0.0, ema_decay=0.5)
SPEC = dataclasses.replace(  # no dropout, as each device of a pmap drops others
    make_short_spec(dropout=0.0), blocks=(Separable(inputs=8, outputs=12, activation="relu6"),)
)
BATCH = 32


def batch_of(seed):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.uniform(-1, 1, (BATCH, 8, 8, 3)).astype(np.float32),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
    }


@functools.cache
def first_variables():
    return initial_variables(SPEC, 8)  # each way trains a copy of its own, and reuses its memory


def trained(parallel, devices, *, pooled=True, accumulate=1, norm_groups=1):
    """The state after three steps, and the sums of one evaluation."""
    parts = {"accumulate": accumulate, "norm_groups": norm_groups}
    axis_name = BATCH_AXIS if parallel == "pmap" else None
    pooled = pooled and norm_groups == 1
    model = models.MobileNet(spec=SPEC, axis_name=axis_name if pooled else None)
    update, hyperparams = (
        optimizer.make(StaticRecipe.of(TRAINING)),
        Hyperparameters.of(TRAINING),
    )
    place = placement(parallel, BATCH, devices, **parts)
    state = place.put_state(
        initial_state(
            jax.tree.map(jnp.asarray, first_variables()), update(hyperparams), jax.random.key(1)
        ).averaging()
    )
    step = make_train_step(model.apply, update, axis_name=axis_name, **parts)
    step = place.compile_train(step)
    evaluate = place.compile_eval(
        make_eval_step(model.apply, axis_name=axis_name, accumulate=accumulate)
    )
    for seed in range(3):
        state, metrics = step(state, place.put_batch(batch_of(seed)), hyperparams)
    mask = (np.arange(BATCH) < 29).astype(np.float32)
    sums = evaluate(state.average, place.put_batch({**batch_of(9), "mask": mask}))
    state = place.get(state)
    found = (state.params, state.batch_stats, state.average, place.get(metrics), place.get(sums))
    return jax.device_get(found)


def distance(tree, reference):
    def one(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-3))

    return max(jax.tree.leaves(jax.tree.map(one, tree, reference)))


def collectives(norm_groups):
    """How many there are in the logits of a batch in training, shared by all devices."""
    place = placement("jit", BATCH, norm_groups=norm_groups)
    apply = in_groups(models.MobileNet(spec=SPEC).apply, norm_groups)

    def logits(variables, images):
        how = {"train": True, "mutable": ["batch_stats"], "rngs": {}}
        return apply(variables, images, **how)[0]

    arguments = place.put_state(first_variables()), place.put_batch(batch_of(0))["image"]
    compiled = jax.jit(logits).lower(*arguments).compile().as_text()
    return len(re.findall(r" (all-reduce|all-gather|all-to-all|collective-permute)\(", compiled))


if __name__ == "__main__":
    devices = jax.devices()
    single = trained("jit", devices[:1])
    found = {
        "jit": distance(trained("jit", devices), single),
        "pmap": distance(trained("pmap", devices), single),
        "pmap on one": distance(trained("pmap", devices[:1]), single),
        "pmap without pooled statistics": distance(trained("pmap", devices, pooled=False), single),
    }
    ways = {
        "in 8 groups": {"norm_groups": 8},
        "in 2 groups": {"norm_groups": 2},
        "in 2 micro-batches of 8 groups": {"accumulate": 2, "norm_groups": 8},
    }
    for name, how in ways.items():
        other = trained("jit", devices[:1], **how)
        found[f"jit {name}"] = distance(trained("jit", devices, **how), other)
        if how.get("norm_groups") != 2:
            found[f"pmap {name}"] = distance(trained("pmap", devices, **how), other)
        found[f"one {name}"] = distance(other, single)
    found |= {f"collectives in {n} groups": collectives(n) for n in (1, 8)}
    print(json.dumps(found | {"devices": len(devices)}))
