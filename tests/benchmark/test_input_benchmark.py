"""What the input suite times are photographs like a data set's, read as a run reads them."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mnet_jax.analysis.cost import Machine
from mnet_jax.benchmark import report
from mnet_jax.benchmark.cases import InputCase
from mnet_jax.benchmark.contenders import OURS
from mnet_jax.benchmark.photographs import write_photographs
from mnet_jax.benchmark.timing import BenchmarkResult, Comparison, Timing
from mnet_jax.config import DataConfig


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder, 20)
    return folder


def test_the_photographs_are_like_a_data_sets(photographs):
    files = sorted(photographs.glob("train/*/*.jpg"))
    assert len(files) == 20 and len({path.read_bytes() for path in files}) == 20
    assert 40_000 < np.mean([path.stat().st_size for path in files]) < 120_000
    for path in files:
        with Image.open(path) as picture:
            assert (picture.size, picture.mode, picture.format) == ((500, 375), "RGB", "JPEG")
            assert np.asarray(picture).std() > 20


def test_a_call_takes_as_many_batches_as_it_says(photographs):
    data = DataConfig(name="folder", directory=str(photographs), resolution=32, batch_size=4)
    case = InputCase(data=data, batches=3, one_core=True, title="JPEGs at")
    assert (case.label, case.images) == ("JPEGs at 32, batch 3 x 4, shift, one core", 12)
    # In a process of its own, as it gives up cores for good.
    program = (
        "import os, sys\n"
        "from mnet_jax import data\n"
        "from mnet_jax.benchmark.cases import InputCase\n"
        "from mnet_jax.benchmark.jax_contenders import ours\n"
        "from mnet_jax.config import DataConfig\n"
        "taken, train_batches = [], data.train_batches\n"
        "def counted(*args, **kwargs):\n"
        "    for batch in train_batches(*args, **kwargs):\n"
        "        taken.append(batch['image'].shape)\n"
        "        yield batch\n"
        "data.train_batches = counted\n"
        "config = DataConfig(name='folder', directory=sys.argv[1], resolution=32, batch_size=4)\n"
        "ours(InputCase(data=config, batches=3, one_core=True))()\n"
        "print(len(os.sched_getaffinity(0)), taken)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(photographs)],
        capture_output=True, text=True, timeout=120, env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.stdout == f"1 {[(4, 32, 32, 3)] * 3}\n", done.stderr


def test_rates_are_images_over_seconds():
    def comparison(label, images, seconds):
        timing = Timing(contender=OURS, seconds=seconds, setup_seconds=1.0, failure=None)
        return Comparison(
            label=label, madds=0, moved_bytes=1, timings=(timing,), images=images
        )  # fmt: skip

    result = BenchmarkResult(
        suite="input",
        machine=Machine(flops_per_second=1.0, bytes_per_second=1.0, device="cpu"),
        environment={},
        comparisons=(
            comparison("comes in", 100, (0.1, 0.2, 0.05)),
            comparison("is taken", 10, (1.0, 1.0, 2.0)),
            comparison("failed", 10, ()),
        ),
    )
    assert report.rate_rows(result) == [
        ("comes in", OURS, "1,000", "500 to 2,000"),
        ("is taken", OURS, "10", "5 to 10"),
    ]
    assert "| comes in | ours | 1,000 | 500 to 2,000 |" in report.to_markdown([result])
