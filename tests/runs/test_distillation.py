"""Knowledge distillation: the loss, by torch; whole runs; and teachers that are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from messages import one_line
from run_digest import digest
from tiny_network import make_short_spec

from mnet_jax import models, serialization
from mnet_jax.commands import planning
from mnet_jax.config import Arm, DataConfig, Distillation, RunConfig, TrainingConfig
from mnet_jax.data.types import View
from mnet_jax.models import MobileNet
from mnet_jax.options.axes import labels, with_values
from mnet_jax.runs.run import run
from mnet_jax.training import metrics
from mnet_jax.training.stopping import Stop, StoppedError

pytestmark = pytest.mark.usefixtures("quickly_compiled", "data_folder")

PLAIN = RunConfig(
    spec=make_short_spec(),
    data=DataConfig(name="digits", resolution=8, batch_size=256, augmentation="none"),
    training=TrainingConfig(epochs=1, warmup_epochs=0.0, lowering="shifted", mixup=0.2),
)


def saved_teacher(path, *, num_classes=10, scaling="symmetric"):
    spec = make_short_spec().with_classes(num_classes)
    model = MobileNet(spec=spec)
    variables = jax.jit(lambda key: model.init(key, jnp.zeros((1, 8, 8, 3)), train=False))(
        jax.random.key(9)
    )
    view = View(resolution=12, photographs=False, scaling=scaling)
    models.save(path, model, variables, view=view)
    return str(path)


@pytest.fixture
def teacher(tmp_path):
    return saved_teacher(tmp_path / "teacher.safetensors")


def taught(path, **how):
    distillation = Distillation(path=path, sha256=models.digest(path), **how)
    return dataclasses.replace(PLAIN, distillation=distillation)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_torchs_divergence_times_the_square_of_the_temperature(temperature):
    torch = pytest.importorskip("torch", reason="its kl_div is the oracle")
    rng = np.random.default_rng(0)
    student, teacher = (3 * rng.normal(size=(7, 5)).astype(np.float32) for _ in range(2))
    log_p, log_q = (
        torch.log_softmax(torch.tensor(x) / temperature, dim=1) for x in (teacher, student)
    )
    divergence = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True)
    expected = temperature**2 * divergence.sum(dim=1).numpy()
    found = metrics.distillation(student, teacher, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics.distillation(teacher, teacher, temperature), 0, atol=1e-6)


def test_a_taught_run_is_another_run_and_resumes_exactly(teacher, tmp_path):
    config = taught(teacher, teacher_weight=0.9, temperature=2.0)
    whole = run(config, tmp_path / "whole")
    plain = run(PLAIN, tmp_path / "plain")
    assert np.isfinite(whole.test_loss)
    assert whole.history[0].validation_loss != plain.history[0].validation_loss
    stop = Stop()

    def report(event):
        stop.requested |= (event.phase, event.step) == ("train", 2)

    with pytest.raises(StoppedError):
        run(config, tmp_path / "stopped", stop=stop, report=report)
    resumed = run(config, tmp_path / "stopped")
    assert digest(tmp_path / "stopped", resumed) == digest(tmp_path / "whole", whole)


def test_a_teacher_without_weight_changes_nothing(teacher, tmp_path):
    found = run(taught(teacher, teacher_weight=0.0), tmp_path / "taught")
    expected = run(PLAIN, tmp_path / "plain")
    assert found.test_loss == pytest.approx(expected.test_loss, rel=1e-5)


def test_a_teacher_that_does_not_fit_is_refused(tmp_path):
    other = saved_teacher(tmp_path / "other.safetensors", scaling="imagenet")
    one_line(ValueError, lambda: planning.require_fit(taught(other)), "scaling: got", "imagenet")
    one_line(ValueError, lambda: run(taught(other), tmp_path / "a"), "scaling: got", "imagenet")
    few = saved_teacher(tmp_path / "few.safetensors", num_classes=4)
    one_line(ValueError, lambda: run(taught(few), tmp_path / "b"), "teacher", "10 classes", "4")
    config = taught(few)
    saved_teacher(tmp_path / "few.safetensors", num_classes=5)
    one_line(ValueError, lambda: run(config, tmp_path / "c"), "not the teacher")
    missing = planning.RunArguments(teacher=str(tmp_path / "none"))
    one_line(ValueError, lambda: planning.baseline(missing), "teacher: ")


def test_the_numbers_of_a_teacher_are_axes_where_there_is_one(teacher):
    arm = planning.baseline(planning.RunArguments(teacher=teacher))
    assert isinstance(arm, Arm) and arm.distillation.sha256 == models.digest(teacher)
    assert arm.config(10).distillation == arm.distillation == Arm.of(arm.config(10)).distillation
    changed = with_values(arm, {"teacher_weight": 0.25, "temperature": 3.0})
    assert changed.distillation.teacher_weight == 0.25
    assert labels(changed)["temperature"] == "3"
    without = planning.baseline(planning.RunArguments())
    assert "temperature" not in labels(without)
    one_line(
        ValueError, lambda: with_values(without, {"temperature": 2.0}),
        "temperature: got 2.0", "--teacher",
    )  # fmt: skip
    for numbers in ({"teacher_weight": 1.5}, {"temperature": 0.0}):
        one_line(ValueError, lambda n=numbers: with_values(arm, n), next(iter(numbers)))
    text = serialization.to_json(changed)
    assert serialization.from_json(Arm, text) == changed
