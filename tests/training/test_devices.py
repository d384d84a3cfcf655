"""One step, however many devices share it: jit over a mesh, pmap, a single device."""

import json
from pathlib import Path

import pytest
from virtual_devices import printed_on_eight_devices

PROGRAM = Path(__file__).parents[1] / "support" / "devices_program.py"

# Relative to the largest value of an array, after three steps in float32 with BatchNorm: sums over
# the batch are taken in another order, and nothing else differs.
TOLERANCE = 2e-4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def distances():
    return json.loads(printed_on_eight_devices(PROGRAM))


@pytest.mark.parametrize("way", ["jit", "pmap", "pmap on one"])
def test_eight_devices_take_the_step_of_one(distances, way):
    assert distances["devices"] == 8
    assert distances[way] < TOLERANCE


WAYS = (
    "in 8 groups",
    "in 2 groups",
    "in 2 micro-batches of 8 groups",
)


@pytest.mark.parametrize("way", WAYS)
def test_groups_and_micro_batches_are_the_configs_and_not_the_devices(distances, way):
    assert distances[f"jit {way}"] < TOLERANCE
    assert distances.get(f"pmap {way}", 0) < TOLERANCE
    assert distances[f"one {way}"] > 10 * TOLERANCE, "another step than the whole batch's"


def test_a_device_that_normalizes_its_own_groups_asks_no_other(distances):
    assert distances["collectives in 1 groups"] > 0
    assert distances["collectives in 8 groups"] == 0


def test_statistics_of_each_device_alone_are_another_step(distances):
    assert distances["pmap without pooled statistics"] > 10 * TOLERANCE
