"""What a step keeps, what it needs, and what is said where that is more than there is."""

import errno
import functools
import math
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from lowerings import every_lowering
from messages import one_line
from small_networks import SMALL, images_of, initial_variables, mixed, random_variables
from tiny_network import make_short_spec

from mnet_jax import host_memory, models
from mnet_jax.config import TrainingConfig
from mnet_jax.training import memory, optimizer
from mnet_jax.training.hyperparameters import Hyperparameters, StaticRecipe
from mnet_jax.training.memory import MemoryCheckedStep, OutOfMemoryError, largest_that_fits
from mnet_jax.training.placement import placement
from mnet_jax.training.step import initial_state, make_train_step

pytestmark = pytest.mark.usefixtures("quickly_compiled")

ROOT = Path(__file__).parents[2]
SHORT = make_short_spec()
TRAINING = TrainingConfig()
NUMBERS = Hyperparameters.of(TRAINING)


def batch_of(count):
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(0, 1, (count, 16, 16, 3)).astype(np.float32),
        "label": rng.integers(0, 10, count).astype(np.int32),
    }


def training_of(model, variables):
    """A function of the parameters alone: the sum of the logits, and the new statistics."""

    def apply(params, images):
        logits, updates = model.apply(
            variables | {"params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(3)},
        )
        return jnp.sum(logits * jnp.arange(logits.shape[-1])), (logits, updates)

    return apply


def kept_bytes(model, variables):
    """What the way back reads of an image: of a batch of three more than of a batch of two."""
    apply = training_of(model, variables)

    def kept(count):
        images = jax.ShapeDtypeStruct((count, 32, 32, 3), jnp.float32)
        found = jax.eval_shape(
            lambda p, images: jax.vjp(lambda p: apply(p, images)[0], p)[1],
            variables["params"],
            images,
        )
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(found))

    return kept(3) - kept(2)


def gradients_of(model, variables, images):
    gradient = jax.grad(training_of(model, variables), has_aux=True)
    compiled = jax.jit(gradient, compiler_options={"xla_backend_optimization_level": 0})
    return compiled(variables["params"], images)


def pytest_generate_tests(metafunc):
    """To trace or compile a network takes seconds; the mixed one has a block of every kind."""
    if "network" in metafunc.fixturenames:
        exhaustive = metafunc.config.getoption("exhaustive")
        networks = {"mixed": mixed} | (SMALL if exhaustive else {})
        metafunc.parametrize("network", networks.values(), ids=networks)


@pytest.mark.slow
def test_rematerialized_blocks_compute_the_same(network):
    images = images_of(4, 32, 32, 3)
    plain, blocks = (models.MobileNet(spec=network(), remat=how) for how in ("none", "blocks"))
    variables = random_variables(plain, images, train=False)
    names = jax.tree.structure(random_variables(blocks, images, train=False))
    assert names == jax.tree.structure(variables)

    def compare(a, b):
        scale = max(float(jnp.max(jnp.abs(b))), 1e-3)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * scale)

    jax.tree.map(compare, *(gradients_of(model, variables, images) for model in (blocks, plain)))


def test_rematerialized_blocks_keep_less(network):
    plain, blocks = (models.MobileNet(spec=network(), remat=how) for how in ("none", "blocks"))
    variables = random_variables(plain, images_of(1, 32, 32, 3), train=False)
    assert kept_bytes(blocks, variables) < 0.75 * kept_bytes(plain, variables)


@functools.cache
def plain_gradients():
    model = models.MobileNet(spec=SHORT, lowering="grouped")
    images = images_of(2, 8, 8, 3)
    variables = random_variables(model, images, train=False)
    return variables, images, gradients_of(model, variables, images)


@every_lowering
def test_every_lowering_can_be_rematerialized(lowering):
    model = models.MobileNet(spec=SHORT, lowering=lowering, remat="blocks")
    variables, images, expected = plain_gradients()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        gradients_of(model, variables, images),
        expected,
    )


@functools.cache
def parts():
    """A state and the step on one device, for batches of any size."""
    model = models.MobileNet(spec=SHORT)
    variables = initial_variables(SHORT, 16)
    update = optimizer.make(StaticRecipe.of(TRAINING))
    place = placement("jit", 64, jax.devices()[:1])
    steps = {
        accumulate: place.compile_train(make_train_step(model.apply, update, accumulate=accumulate))
        for accumulate in (1, 8)
    }
    return place, steps, initial_state(variables, update(NUMBERS), jax.random.key(1))


def placed(count):
    place, _, state = parts()
    return place.put_state(jax.tree.map(jnp.copy, state)), place.put_batch(batch_of(count)), NUMBERS


def temporary_bytes(count, accumulate=1):
    _, steps, _ = parts()
    return steps[accumulate].lower(*placed(count)).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_micro_batches_need_the_memory_of_one():
    assert temporary_bytes(64, accumulate=8) < temporary_bytes(64) / 4


@pytest.mark.parametrize("needed", [lambda n: 100 + 7 * n, lambda n: n * n, lambda n: n // 5 * 5])
@pytest.mark.parametrize("limit", [0, 99, 130, 131, 300])
def test_the_largest_that_fits_is_what_trying_all_finds(needed, limit):
    too_large = next(n for n in range(1, 1000) if needed(n) > limit) + 40
    expected = max((n for n in range(1, too_large) if needed(n) <= limit), default=0)
    assert largest_that_fits(needed, limit, too_large) == expected


def test_a_step_that_fits_is_the_step():
    place, steps, _ = parts()
    step = MemoryCheckedStep(steps[1], place.resized, 64, 1)
    expected, _ = steps[1](*placed(64))
    first, _ = step(*placed(64))
    again, _ = step(*placed(64))
    for found in (first, again):
        jax.tree.map(np.testing.assert_array_equal, found.values, expected.values)


def test_numbers_of_another_structure_are_another_step():
    """A run with a limit on its loss may share the step of one without."""
    place, steps, _ = parts()
    step = MemoryCheckedStep(steps[1], place.resized, 64, 1)
    step(*placed(64))
    state, batch, hyperparams = placed(64)
    state, _ = step(state, batch, hyperparams._replace(loss_limit=np.float32(1)))
    assert int(state.step) == 1


def refused(step, count=64):
    message = one_line(OutOfMemoryError, lambda: step(*placed(count)), f"batch_size: got {count}")
    return int(message.split("legal: ")[1].split(" or less")[0])


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_refused_with_the_largest_that_does():
    """Between what 24 and what 28 images need; in multiples of 4 that is 24."""
    place, steps, _ = parts()
    needs = {}
    for n in (24, 28):
        found = steps[1].lower(*placed(n)).compile().memory_analysis()
        needs[n] = (
            found.argument_size_in_bytes + found.temp_size_in_bytes + found.output_size_in_bytes
            - found.alias_size_in_bytes
        )  # fmt: skip
    held = steps[1].lower(*placed(64)).compile().memory_analysis().argument_size_in_bytes
    middle = (needs[24] + needs[28]) // 2
    step = MemoryCheckedStep(steps[1], place.resized, 64, 4, free=lambda: middle - held)
    assert refused(step) == 24


def test_where_nothing_fits_that_is_said():
    place, steps, _ = parts()
    step = MemoryCheckedStep(steps[1], place.resized, 64, 32, free=lambda: 1)
    one_line(OutOfMemoryError, lambda: step(*placed(64)), "legal: none, 32 is too large as well")


def test_a_batch_too_small_to_be_normalized_does_not_fit_either():
    """Of one pixel, so that one image has one value a channel."""
    place, steps, state = parts()
    step = MemoryCheckedStep(steps[1], place.resized, 2, 1, free=lambda: 1)
    images = np.ones((2, 1, 1, 3), np.float32)
    batch = place.put_batch({"image": images, "label": np.zeros(2, np.int32)})
    given = place.put_state(jax.tree.map(jnp.copy, state)), batch, NUMBERS
    one_line(OutOfMemoryError, lambda: step(*given), "batch_size: got 2", "legal: none")


class Exhausted:
    """A compiled step that fits by its own account and finds no memory when it runs."""

    def __init__(self, step):
        self._step = step

    def lower(self, *arguments):
        return Exhausted(self._step.lower(*arguments))

    def compile(self):
        compiled = self._step.compile()
        self.memory_analysis = compiled.memory_analysis
        return self

    def __call__(self, *arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.")


@pytest.mark.parametrize("free", [None, 2**40])
def test_memory_that_runs_out_all_the_same_is_refused_alike(free):
    place, steps, _ = parts()
    step = MemoryCheckedStep(Exhausted(steps[1]), place.resized, 64, 1, free=lambda: free)
    assert refused(step) == 63


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: x\ny")]
)
def test_memory_that_runs_out_elsewhere_is_one_line(error):
    def fail():
        with memory.explain_exhaustion("the run"):
            raise error

    one_line(OutOfMemoryError, fail, "out of memory in the run: ")
    with pytest.raises(ZeroDivisionError), memory.explain_exhaustion("the run"):
        raise ZeroDivisionError


LIMITED = """
    import resource, sys
    import psutil, tensorboardX
    from mnet_jax.commands import train
    import mnet_jax.runs.run, jax
    jax.local_devices()
    sys.argv = ["train", *sys.argv[1:]]
    limit = psutil.Process().memory_info().vms + 2 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    train.main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_the_command_says_in_one_line_which_batch_fits(tmp_path, data_folder):
    """A process that may have two gibibytes more trains 384 pixels by the batch of 64."""
    model = models.MobileNet(spec=SHORT)
    variables = random_variables(model, images_of(1, 8, 8, 3), train=False)
    models.save(tmp_path / models.FILE_NAME, model, variables)
    program = "\n".join(line.strip() for line in LIMITED.splitlines())
    flags = ["--run", tmp_path / "run", "--pretrained", tmp_path / models.FILE_NAME]
    flags += ["--resolution", "384", "--epochs", "1", "--batch-size", "64"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, flags)],
        cwd=ROOT, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("experiments.train")]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "batch_size: got 64, which takes" in line
    assert 0 < int(line.split("legal: ")[1].split(" or less")[0]) < 64


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
@pytest.mark.parametrize("limit", [300, 600, 1000])
def test_an_address_space_too_small_to_import_in_is_refused_before_that(tmp_path, limit):
    """The libraries would abort, or wait for threads that cannot be started."""
    limited = ["sh", "-c", f'ulimit -v {limit * 1024}; exec "$@"', "sh"]
    done = subprocess.run(
        [*limited, sys.executable, "-m", "experiments.train", "--run", tmp_path / "run"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    found_text = f"experiments.train: out of memory: ulimit -v: got {limit * 1024}, legal: "
    assert line.startswith(found_text)
    assert (done.returncode, done.stdout) == (1, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("std::bad_alloc"), True),
        (ImportError("libx.so: failed to map segment from shared object"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ValueError("batch_size: got 0, legal: 1 or more"), False),
    ],
)
def test_what_libraries_say_of_no_memory_is_known(error, is_one):
    assert host_memory.is_exhaustion(error) == memory.is_exhaustion(error) == is_one


def test_a_step_has_the_addresses_left_below_the_limit(monkeypatch):
    limit = psutil.Process().memory_info().vms + 2**30
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    assert 0 < host_memory.available_bytes() <= 2**30 + 2**28
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**28, 2**28))
    assert host_memory.available_bytes() == 0
    one_line(MemoryError, host_memory.require_addresses, f"ulimit -v: got {2**18}, legal: ")
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (unlimited, unlimited))
    host_memory.require_addresses()
    assert host_memory.available_bytes() > 0
