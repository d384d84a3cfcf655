"""`auto`: what a table of lowerings says, which table counts, and how one is made of times."""

import dataclasses
import json
import warnings
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import pytest
from depthwise_taps import needs_compiler

from mnet_jax import ops, serialization
from mnet_jax.analysis.cost import Machine
from mnet_jax.benchmark.cases import DepthwiseCase
from mnet_jax.benchmark.table import table_from
from mnet_jax.benchmark.timing import BenchmarkResult, Comparison, Timing
from mnet_jax.ops import choice, depthwise_conv, native
from mnet_jax.ops.choice import Ranking, ShapeClass, Table, TableEntry
from mnet_jax.ops.lowering import geometry_of
from mnet_jax.ops.types import Direction

CPU, CARD = ("cpu", "cpu"), ("gpu", "NVIDIA H100 80GB HBM3")
SHAPE = (16, 14, 14, 384)
CLASS = ShapeClass(kernel=3, stride=1, wide=True, magnitude=3)  # 8^3 <= 16 * 14 * 14 < 8^4


def ranking(order):
    return Ranking(order=order, ratios=dict.fromkeys(order, 1.0))


def table(*orders, device=CPU):
    """Of (class, order), or of (class, order of forward, order of backward)."""
    entries = tuple(
        TableEntry(shapes=shapes, layers=1, forward=ranking(ways[0]), backward=ranking(ways[-1]))
        for shapes, *ways in orders
    )
    backend, device_kind = device
    return Table(
        backend=backend, device_kind=device_kind, command="", environment={}, entries=entries
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Writes the tables of a machine that has none: `place(user=..., packaged=..., device=...)`."""
    monkeypatch.setattr(choice, "users_directory", lambda: tmp_path / "user")
    monkeypatch.setattr(choice, "PACKAGED", tmp_path / "packaged")

    def write(*, device=CPU, **tables):
        monkeypatch.setattr(choice, "present_device", lambda: device)
        for name, given in tables.items():
            path = choice.path_in(tmp_path / name, device[1])
            path.parent.mkdir(exist_ok=True)
            path.write_text(given if isinstance(given, str) else serialization.to_json(given))
        choice._table.cache_clear()

    write()
    yield write
    choice._table.cache_clear()


def convolution(*, shape=SHAPE, kernel=3, stride=1, dilation=1, dtype=jnp.float32):
    x = jax.ShapeDtypeStruct(shape, dtype)
    return x, geometry_of(x, (kernel, kernel), stride, "SAME", dilation)


def fastest(*, backend="cpu", native=True, **like):
    found = {
        choice.fastest(*convolution(**like), backend, direction, native=native)
        for direction in get_args(Direction)
    }
    (lowering,) = found  # the tables here but for some say the same of both directions
    return lowering


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "found"),
    [
        (SHAPE, 3, 1, CLASS),
        ((1, 7, 7, 8), 5, 2, ShapeClass(kernel=5, stride=2, wide=False, magnitude=1)),
        ((1, 1, 1, 16), 3, 1, ShapeClass(kernel=3, stride=1, wide=True, magnitude=0)),
        ((8, 8, 7, 15), 3, 1, ShapeClass(kernel=3, stride=1, wide=False, magnitude=2)),
        ((8, 8, 8, 15), 3, 1, ShapeClass(kernel=3, stride=1, wide=False, magnitude=3)),
    ],
)
def test_the_class_of_a_convolution(shape, kernel, stride, found):
    assert choice.class_of(shape, kernel, stride) == found


def test_the_first_of_the_order_that_can_be_had(place):
    place(user=table((CLASS, ("native", "grouped", "shifted"))))
    assert fastest() == "native"
    assert fastest(native=False) == "grouped"
    place(user=table((CLASS, ("shifted", "native", "grouped"))))
    assert fastest() == "shifted"
    assert fastest(dtype=jnp.bfloat16, native=False) == "shifted"


def test_where_nothing_was_measured(place):
    assert fastest() == "native"
    assert fastest(native=False) == "shifted"
    for backend in ("gpu", "tpu", "another"):
        assert fastest(backend=backend) == "grouped"


def test_a_cpu_has_the_nearest_class_and_an_accelerator_none_but_its_own(place):
    far = ShapeClass(kernel=3, stride=1, wide=True, magnitude=5)
    strided = ShapeClass(kernel=3, stride=2, wide=True, magnitude=3)
    orders = ((CLASS, ("shifted",)), (far, ("grouped",)), (strided, ("native", "shifted")))
    place(user=table(*orders))
    assert fastest(shape=(1, 8, 8, 16)) == "shifted"
    assert fastest(shape=(64, 64, 64, 16)) == "grouped"
    assert fastest(shape=(64, 64, 64, 16), stride=2) == "native"
    assert fastest(kernel=5) == "shifted"
    place(user=table(*orders, device=CARD), device=CARD)
    assert fastest(backend="gpu", native=False) == "shifted"
    assert fastest(backend="gpu", native=False, shape=(1, 8, 8, 16)) == "grouped"
    assert fastest(backend="gpu", native=False, stride=2) == "shifted"
    assert fastest(backend="tpu", native=False) == "grouped"


def test_what_the_benchmark_does_not_time_is_not_looked_up(place):
    place(user=table((CLASS, ("grouped",))))
    assert fastest(native=False) == "grouped"
    assert fastest(native=False, dilation=2) == "shifted"
    assert fastest(native=False, dtype=jnp.float16) == "shifted"
    x = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    for kernel, strides in (((3, 5), 1), ((3, 3), (1, 2))):
        geometry = geometry_of(x, kernel, strides, "SAME", 1)
        assert choice.fastest(x, geometry, "cpu", "forward", native=False) == "shifted"


def test_the_users_table_goes_before_the_packaged_one(place):
    place(packaged=table((CLASS, ("shifted",))))
    assert fastest() == "shifted"
    place(user=table((CLASS, ("grouped",))))
    assert fastest() == "grouped"


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{}\n\n",
        serialization.to_json(table((CLASS, ("grouped",))))[:-9],
        serialization.to_json(table((CLASS, ("grouped",)))).replace("grouped", "fast"),
        table((CLASS, ("grouped",)), device=CARD),
    ],
    ids=["empty", "no table", "cut", "no such lowering", "of another device"],
)
def test_a_damaged_users_table_is_one_line_and_the_packaged_one_is_used(place, damaged, tmp_path):
    place(user=damaged, packaged=table((CLASS, ("shifted",))))
    with pytest.warns(UserWarning, match="lowerings: ignoring") as found_text:
        assert fastest() == "shifted"
    (message,) = (str(warning.message) for warning in found_text)
    assert str(tmp_path / "user" / "cpu.json") in message and message.count("\n") == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fastest() == "shifted"  # it is said once


def convolutions(platform):
    """How many of them there are in a forward and a backward pass lowered for a platform."""

    def gradients(x, kernel):  # one that JAX has not traced before
        return jax.grad(lambda *a: jnp.sin(depthwise_conv(*a)).sum(), (0, 1))(x, kernel)

    traced = jax.jit(gradients).trace(jnp.ones((2, 9, 9, 20)), jnp.ones((3, 3, 20)))
    return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.convolution")


NINE = choice.class_of((2, 9, 9, 20), 3, 1)


def test_auto_follows_the_table_of_this_device(place):
    place(user=table((NINE, ("grouped", "shifted"))))
    assert convolutions("cpu") == 3  # forward and two gradients
    place(user=table((NINE, ("shifted", "native", "grouped"))))
    assert convolutions("cpu") == 0
    assert convolutions("tpu") == 3


def test_each_direction_has_what_is_fastest_in_it(place, monkeypatch):
    monkeypatch.setattr(native, "is_built", lambda: False)  # as it is on an accelerator
    shifted, grouped = ("shifted", "grouped"), ("grouped", "shifted")
    for device, platform in ((CPU, "cpu"), (CARD, "cuda")):
        place(user=table((NINE, shifted, grouped), device=device), device=device)
        assert convolutions(platform) == 2  # both gradients
        place(user=table((NINE, grouped, shifted), device=device), device=device)
        assert convolutions(platform) == 1


@needs_compiler
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="native is for CPUs")
def test_a_layer_with_more_than_a_convolution_is_native_whatever_the_table_says(place):
    native.build()
    place(user=table((NINE, ("shifted", "native", "grouped"))))
    x, kernel = jnp.ones((2, 9, 9, 20)), jnp.ones((3, 3, 20))
    norm = jnp.ones((3, 20))
    for pending, statistics, is_native in (
        (ops.Pending(x=x), False, False),
        (ops.Pending(x=x), True, True),
        (ops.Pending(x=x, norm=norm), False, True),
        (ops.Pending(x=x, activation="relu6"), False, True),
    ):
        call = partial(ops.depthwise, kernel=kernel, statistics=statistics)
        assert ("mnet_depthwise" in jax.jit(call).lower(pending).as_text()) == is_native
    first, second = ("native", "shifted", "grouped"), ("shifted", "native", "grouped")
    for forward, backward, is_native in (
        (first, first, True),
        (first, second, False),
        (second, first, False),
    ):
        place(user=table((NINE, forward, backward)))
        call = partial(ops.depthwise, kernel=kernel)
        lowered = jax.jit(call).lower(ops.Pending(x=x)).as_text()
        assert ("mnet_depthwise" in lowered) == is_native


def test_auto_of_an_accelerator_that_shifts_is_still_portable(place, monkeypatch):
    monkeypatch.setattr(native, "is_built", lambda: False)  # as it is on an accelerator
    place(user=table((NINE, ("shifted", "grouped")), device=CARD), device=CARD)
    assert [convolutions(platform) for platform in ("cuda", "cpu", "tpu")] == [0, 0, 3]
    place(user=table((NINE, ("grouped", "shifted")), device=CARD), device=CARD)
    assert [convolutions(platform) for platform in ("cuda", "cpu", "tpu")] == [3, 0, 3]


def test_the_packaged_tables_are_tables_of_their_devices():
    for path in choice.PACKAGED.glob("*.json"):
        found = serialization.from_json(Table, path.read_text())
        assert choice.path_in(choice.PACKAGED, found.device_kind) == path
        assert len({entry.shapes for entry in found.entries}) == len(found.entries) > 0
        for entry in found.entries:
            for ranked in (entry.forward, entry.backward):
                assert set(ranked.order) == set(ranked.ratios) >= {"grouped", "shifted"}
    assert choice.path_in(choice.PACKAGED, "cpu").exists()


LAYER = DepthwiseCase(shape=SHAPE, kernel=3, stride=1, derivative="forward")


def made(times, device):
    """The table of some layers of one class: for each, (forward, backward), both the seconds of
    every lowering round by round; None for a failure."""
    cases, comparisons = [], []
    for channels, layer in enumerate(times, start=16):
        for derivative, seconds in zip(("forward", "both gradients"), layer, strict=True):
            shape = (*SHAPE[:3], channels)
            cases.append(dataclasses.replace(LAYER, shape=shape, derivative=derivative))
            timings = tuple(
                Timing(
                    contender=name, seconds=tuple(s or ()), setup_seconds=None,
                    failure=None if s else "no",
                )
                for name, s in seconds.items()
            )  # fmt: skip
            comparisons.append(Comparison(label="", madds=1, moved_bytes=1, timings=timings))
    result = BenchmarkResult(
        suite="depthwise",
        machine=Machine(flops_per_second=1.0, bytes_per_second=1.0, device="cpu"),
        environment={"jax": "0.7.2"},
        comparisons=tuple(comparisons),
    )
    return table_from(result, cases, "the command", device)


def test_the_order_of_a_direction_is_of_the_geometric_mean_over_the_layers():
    found = made(
        [
            (
                {"grouped": [1, 1, 9], "shifted": [2, 2, 2], "native": [2, 2, 2]},
                {"grouped": [4, 4, 4], "shifted": [1, 1, 1], "native": [2, 2, 2]},
            ),
            (
                {"grouped": [9, 9, 9], "shifted": [2, 2, 2], "native": [9, 9, 9]},
                {"grouped": [4, 4, 4], "shifted": [9, 9, 9], "native": [4, 4, 4]},
            ),
        ],
        CPU,
    )
    (entry,) = found.entries
    assert (found.command, found.environment) == ("the command", {"jax": "0.7.2"})
    assert (entry.shapes, entry.layers) == (CLASS, 2)
    # Of medians: shifted 2/1 and 2/9, then 1/4 and 9/4; native 2/1 and 9/9, then 2/4 and 4/4.
    for ranked, shifted, native_, order in (
        (entry.forward, 2 / 3, 2**0.5, ("shifted", "grouped", "native")),
        (entry.backward, 3 / 4, 0.5**0.5, ("native", "shifted", "grouped")),
    ):
        expected = {"grouped": 1.0, "shifted": shifted, "native": native_}
        assert ranked.ratios == pytest.approx(expected, abs=1e-4) and ranked.order == order


def test_what_failed_somewhere_is_not_in_the_order():
    (entry,) = made(
        [
            ({"grouped": [4], "shifted": [2], "native": [1]},) * 2,
            ({"grouped": [4], "shifted": [2], "native": None},) * 2,
        ],
        CPU,
    ).entries
    assert entry.forward.order == entry.backward.order == ("shifted", "grouped")


GROUPED = [1.0, 1.1, 1.2]


@pytest.mark.parametrize(
    ("shifted", "first_on_card", "first_on_cpu"),
    [
        ([[0.5] * 3] * 4, "shifted", "shifted"),
        ([[0.5] * 3] * 3 + [[1.05] * 3], "grouped", "shifted"),  # within the spread of grouped
        ([[0.1] * 3] * 3 + [[0.1, 0.1, 1.0]], "grouped", "shifted"),  # one round as slow
        ([[1.5] * 3] + [[0.1] * 3] * 3, "grouped", "shifted"),  # slower in one case
        ([[1.3] * 3] * 4, "grouped", "grouped"),
    ],
)
def test_an_accelerators_default_is_never_slower_than_grouped(shifted, first_on_card, first_on_cpu):
    one, two, three, four = ({"grouped": GROUPED, "shifted": s, "native": None} for s in shifted)
    slow = {"grouped": GROUPED, "shifted": [9.0] * 3, "native": None}
    for device, first in ((CARD, first_on_card), (CPU, first_on_cpu)):
        for direction, other in (("forward", "backward"), ("backward", "forward")):
            layers = [(fast, slow) for fast in (one, two, three, four)]
            found = made(
                layers if direction == "forward" else [pair[::-1] for pair in layers], device
            )
            assert (found.backend, found.device_kind) == device
            (entry,) = found.entries
            assert getattr(entry, other).order == ("grouped", "shifted")
            order = getattr(entry, direction).order
            assert order[0] == first and set(order) == {"grouped", "shifted"}
    assert json.loads(serialization.to_json(found))["entries"][0]["layers"] == 4
