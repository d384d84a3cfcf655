"""What `train` says before it trains is what it then does."""

import dataclasses

import pytest
from tiny_network import make_tiny_spec

from mnet_jax.commands import planning
from mnet_jax.config import DataConfig, Pretrained, RunConfig, TrainingConfig
from mnet_jax.data import Dataset

IMAGES = Dataset(
    name="folder", class_names=tuple("abcdefg"), train=range(1234), validation=range(56),
    test=range(78),
)  # fmt: skip
CONFIG = RunConfig(
    spec=make_tiny_spec(num_classes=7),
    data=DataConfig(name="folder", directory="pho\x1btos", resolution=24, batch_size=100),
    training=TrainingConfig(epochs=5, learning_rate=0.025),
)


def message(config=CONFIG, directory=None, dataset=IMAGES):
    return "\n".join(planning.opening_lines(config, "small-set", dataset, directory))


def test_everything_that_is_going_to_happen_is_told(tmp_path):
    text = message(directory=tmp_path / "run")
    for words in (
        "1,234 images to train, 56 to validate, 78 to test, 7 classes, 24 pixels",
        "small-set: 5 epochs of 12 steps, 60 steps of 100 images in all, rate 0.025 (sgd, cosine)",
        "parameters", "MAdds", "tiny", f"{tmp_path / 'run'}, a new run",
    ):  # fmt: skip
        assert words in text
    assert text.isprintable() or text.replace("\n", "").isprintable(), "names are escaped"


def test_weights_and_frozen_parts_are_told(tmp_path):
    training = dataclasses.replace(CONFIG.training, frozen=2)
    start = Pretrained(path="runs/latest", sha256="0" * 64)
    text = message(dataclasses.replace(CONFIG, training=training, pretrained=start), tmp_path)
    assert "from the weights in runs/latest" in text and "2 of 4 parts frozen" in text
    assert "parts frozen" not in message(directory=tmp_path)


@pytest.mark.parametrize(("last", "epoch"), [(11, 1), (12, 2), (30, 3)])
def test_where_a_run_goes_on_is_told(last, epoch, tmp_path):
    for name in ("3", str(last), "damaged-900", f"{last + 5}.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert f"goes on from step {last}, in epoch {epoch}" in message(directory=tmp_path)
