"""Layers and a network on 8 virtual devices, whose arrays say how they are distributed.

For test_transformations.py. Prints JSON: by way, lowering and case the distance of results and
gradients from those of a plain jit, relative to the largest value of each array; what is refused
says why.
"""

import json
from functools import partial

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)  # most of the time is the compiler's

import transformed
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mnet_jax import models, ops

LOWERINGS = ("grouped", "shifted", "auto")  # native is shifted on several devices
MESH = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
TWO = jax.make_mesh((4, 2), ("batch", "channels"), axis_types=(AxisType.Explicit,) * 2)


def put(tree, spec, mesh=MESH):
    return jax.device_put(tree, NamedSharding(mesh, spec))


def of_layers(lowering, layers):
    """Results and gradients of all layers, each a list of images, and of what images share."""
    functions = {name: partial(transformed.LAYERS[name][0], lowering) for name in layers}

    def compute(layers):
        return {
            name: transformed.value_and_gradients(functions[name])(*arrays)
            for name, arrays in layers.items()
        }

    return compute


def spread(layers, of_images, of_others):
    """A tree like the layers' arrays: images get one thing, what they share another."""
    return {
        name: (of_images, *(of_others for _ in others)) for name, (_, *others) in layers.items()
    }


def explicitly(lowering, layers):
    """Images are sharded and all else is on every device; so are their gradients."""
    specs = spread(layers, P("batch"), P())
    found = jax.jit(of_layers(lowering, layers))(jax.tree.map(put, layers, specs))
    for y, of_images, *of_others in found.values():
        assert jax.typeof(y).sharding.spec[0] == jax.typeof(of_images).sharding.spec[0] == "batch"
        assert not any(axis for each in of_others for axis in jax.typeof(each).sharding.spec)
    return found


def manually(lowering, layers):
    """Each device computes its images; JAX itself is to add up the gradients of what is shared."""
    specs = spread(layers, P("batch"), P())
    results = {name: (P("batch"), *spec) for name, spec in specs.items()}
    mapped = jax.shard_map(
        of_layers(lowering, layers), mesh=MESH, in_specs=(specs,), out_specs=results
    )
    return jax.jit(mapped)(jax.tree.map(put, layers, specs))


def layers():
    """All of them by `auto`; by other lowerings those that have any."""
    for lowering in LOWERINGS:
        arrays = {
            name: arrays
            for name, (_, arrays) in transformed.LAYERS.items()
            if lowering == "auto" or name.startswith("depthwise_conv")
        }
        want = jax.jit(of_layers(lowering, arrays))(arrays)
        for way in (explicitly, manually):
            with jax.set_mesh(MESH):
                found = way(lowering, arrays)
            for name in arrays:
                yield f"{way.__name__}, {lowering}, {name}", found[name], want[name]


def dropout(x):
    key = jax.random.key(1)
    return models.Dropout(0.5).apply({}, x, deterministic=False, rngs={"dropout": key})


def drop_path(x):
    key = jax.random.key(1)
    return models.DropPath(0.5).apply({}, x, deterministic=False, rngs={"dropout": key})


def networks():
    """A step by `auto`: of sharded images, and manually with statistics that devices share."""
    arguments = transformed.VARIABLES, transformed.IMAGES, transformed.LABELS
    placed = put(arguments[0], P()), *put(arguments[1:], P("batch"))
    step = partial(transformed.training, "auto")
    want = jax.jit(step)(*arguments)
    with jax.set_mesh(MESH):
        yield "explicitly, a network", jax.jit(step)(*placed), want
        specs = (P(), P("batch"), P("batch")), (P(), P("batch"), P(), P())
        pooling = partial(step, axis_name="batch")
        mapped = jax.shard_map(pooling, mesh=MESH, in_specs=specs[0], out_specs=specs[1])
        logits, drop = transformed.X[:, 0, 0], jax.jit(dropout)
        yield "explicitly, dropout", drop(put(logits, P("batch"))), drop(logits)
        maps, drop = transformed.X, jax.jit(drop_path)
        yield "explicitly, stochastic depth", drop(put(maps, P("batch"))), drop(maps)
        yield "manually, a network", jax.jit(mapped)(*placed), want


SHARDINGS = {  # of images [b, h, w, c] and of a depthwise kernel [kh, kw, c]
    "channels": (P("batch", None, None, "channels"), P(None, None, "channels")),
    "images' channels": (P("batch", None, None, "channels"), P()),
    "kernel's channels": (P("batch"), P(None, None, "channels")),
    "columns": (P("batch", None, "channels"), P()),
}


def other_axes():
    """Depthwise convolutions of images that are sharded over more than the batch."""
    x, kernel = transformed.X[:, :, :8], transformed.WINDOW  # columns that halve on two devices
    for lowering in LOWERINGS:
        layer = partial(ops.depthwise_conv, strides=2, lowering=lowering)
        both = jax.jit(transformed.value_and_gradients(layer))
        want = both(x, kernel)
        for name, specs in SHARDINGS.items():
            with jax.set_mesh(TWO):
                arrays = (put(a, spec, TWO) for a, spec in zip((x, kernel), specs, strict=True))
                try:
                    found = both(*arrays)
                except ValueError as error:
                    found = str(error)
            yield f"{name}, {lowering}", found, want


if __name__ == "__main__":
    distances = {}
    for name, found, want in (*layers(), *networks(), *other_axes()):
        refused = isinstance(found, str)
        found = found if refused else transformed.distance(*jax.device_get((found, want)))
        distances[name] = found
    print(json.dumps(distances))
