"""What `--show-batch` draws is what the network is given."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_network import make_short_spec

from mnet_jax import data as images
from mnet_jax.config import DataConfig, RunConfig, TrainingConfig
from mnet_jax.data import batches
from mnet_jax.plots.contact_sheet import contact_sheet
from mnet_jax.runs import program as programs
from mnet_jax.runs import run as runs
from mnet_jax.runs.preview import Preview, first_batch

pytestmark = pytest.mark.usefixtures("quickly_compiled")

CONFIG = RunConfig(
    spec=make_short_spec(),
    data=DataConfig(resolution=8, batch_size=512, policy="randaugment", erasing=0.3),
    training=TrainingConfig(epochs=1, lowering="shifted", mixup=0.4, cutmix=1.0),
    seed=3,
)


@pytest.fixture
def given(monkeypatch):
    """The images that each step gives to the network, which a mean stands for: it compiles soon."""
    seen, make = [], programs.make_train_step

    def watching(apply, *args, **options):
        def watched(variables, images, **others):
            jax.debug.callback(lambda x: seen.append(np.asarray(x)), images)
            logits = jnp.broadcast_to(images.mean(axis=(1, 2, 3))[:, None], (len(images), 10))
            return logits, {"batch_stats": variables["batch_stats"]}

        return make(watched, *args, **options)

    monkeypatch.setattr(programs, "make_train_step", watching)
    programs.program_of.cache_clear()
    yield seen
    programs.program_of.cache_clear()


class EnoughError(Exception):
    """Ends a run."""


def end(progress):
    raise EnoughError


@pytest.mark.parametrize("mixed", [True, False])
def test_the_preview_is_the_first_batch_of_the_run(mixed, given, data_folder, tmp_path):
    alphas = {} if mixed else {"mixup": 0.0, "cutmix": 0.0}
    config = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, **alphas))
    dataset = images.load(config.data)
    preview = first_batch(config, dataset)
    with pytest.raises(EnoughError):
        runs.run(config, tmp_path, report=end)
    jax.effects_barrier()
    seen = np.clip(given[0] * 127.5 + 127.5, 0, 255)
    assert preview.images.dtype == np.uint8
    np.testing.assert_allclose(preview.images, seen, atol=0.51)  # rounded
    assert (preview.partners is not None) == mixed and (preview.share < 1) == mixed
    assert preview.class_names == tuple("0123456789")
    few = first_batch(config, dataset, most=5)
    np.testing.assert_array_equal(few.images, preview.images[:5])
    np.testing.assert_array_equal(few.labels, preview.labels[:5])
    if mixed:
        np.testing.assert_array_equal(few.partners, preview.partners[:5])
        assert few.share == preview.share


def test_no_more_images_are_read_than_are_shown(data_folder, monkeypatch):
    """However large the batch, mixed or not."""
    read, opened = [], batches.opened
    monkeypatch.setattr(batches, "opened", lambda source, i: read.append(i) or opened(source, i))
    data = dataclasses.replace(
        CONFIG.data, batch_size=1_000_003, augmentation="resized_crop_flip", policy="none"
    )
    preview = first_batch(dataclasses.replace(CONFIG, data=data), images.load(data), most=7)
    assert len(preview.images) == 7 and len(read) == 2 * 7


def test_the_sheet_has_every_image_in_its_place():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 56, 56, 3), dtype=np.uint8)
    names = ("cat", "a name that is much too long for the width of its image")
    plain = Preview(
        images=pixels,
        labels=np.array([0, 1, 0, 1, 0]),
        partners=None,
        share=1.0,
        class_names=names,
    )
    sheet = np.asarray(contact_sheet(plain))
    for at, image in enumerate(pixels):  # in rows of three, each twice as large
        left, top = 6 + at % 3 * (112 + 6), 6 + at // 3 * (112 + 6 + 16)
        np.testing.assert_array_equal(sheet[top : top + 112 : 2, left : left + 112 : 2], image)
        below = sheet[top + 112 : top + 128, left : left + 112]
        assert (below == 0).any(), "a name in black"
        gap = sheet[top : top + 128, left + 112 : left + 118]
        assert (gap == 255).all(), "and none beyond its image"
    mixed = dataclasses.replace(plain, partners=np.array([1, 0, 1, 0, 1]), share=0.25)
    assert contact_sheet(mixed).height == contact_sheet(plain).height + 2 * 16


def test_a_large_batch_is_cut_and_large_images_stay_as_they_are():
    images = np.zeros((100, 150, 150, 3), np.uint8)
    preview = Preview(
        images=images, labels=np.zeros(100, int), partners=None, share=1.0, class_names=("x",)
    )
    assert contact_sheet(preview).size == (8 * 156 + 6, 8 * (156 + 16) + 6)
