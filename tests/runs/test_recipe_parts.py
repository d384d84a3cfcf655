"""Whole runs with each part of a recipe: they learn, and a stopped one resumes exactly."""

import dataclasses

import numpy as np
import pytest
from run_digest import digest
from tiny_network import make_short_spec

from mnet_jax.config import DataConfig, Lamb, Muon, RunConfig, TrainingConfig
from mnet_jax.runs.run import run
from mnet_jax.training.stopping import Stop, StoppedError

pytestmark = pytest.mark.usefixtures("quickly_compiled", "data_folder")

SHORT = make_short_spec()
SPEC = dataclasses.replace(SHORT, blocks=SHORT.blocks * 2)  # the first block is never skipped
PLAIN = RunConfig(
    spec=SPEC,
    data=DataConfig(name="digits", resolution=8, batch_size=256, augmentation="none"),
    training=TrainingConfig(epochs=1, warmup_epochs=0.0, lowering="shifted"),
)
PARTS = {
    "clipping": {"clip_norm": 0.05},
    "averages at one rate": {"ema_warmup": False},
    "stochastic depth": {"drop_path": 0.5, "accumulate": 2, "norm_groups": 2},
    "lamb": {"optimizer": Lamb(), "learning_rate": 0.01},
    "muon": {"optimizer": Muon(), "learning_rate": 0.01},
}


def with_part(part):
    return dataclasses.replace(PLAIN, training=dataclasses.replace(PLAIN.training, **PARTS[part]))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(PLAIN, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("part", PARTS)
def test_a_run_with_a_part_is_another_run_and_resumes_exactly(part, plain, tmp_path):
    config = with_part(part)
    whole = run(config, tmp_path / "whole")
    assert np.isfinite(whole.test_loss)
    assert whole.history[0].validation_loss != plain.history[0].validation_loss
    stop = Stop()

    def report(event):
        stop.requested |= (event.phase, event.epoch, event.step) == ("train", 1, 2)

    with pytest.raises(StoppedError):
        run(config, tmp_path / "stopped", stop=stop, report=report)
    resumed = run(config, tmp_path / "stopped")
    assert digest(tmp_path / "stopped", resumed) == digest(tmp_path / "whole", whole)
