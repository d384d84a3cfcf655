"""Made-up trials of made-up arms, and what they are summarized to."""

import functools
import io

import numpy as np
from rich.console import Console
from run_results import make_result

from mnet_jax.ablation import rendering
from mnet_jax.ablation.report import summarize
from mnet_jax.ablation.store import failure, success
from mnet_jax.architectures import mobilenet_v2
from mnet_jax.config import Arm, RunConfig

CPU = {"jax": "0.7.2", "device": "cpu"}
CAUSE = "NonFiniteError: the loss is nan at step 120 of 1200, learning rate 0.1 | see `here`"
LINEAR = (0.9722, 0.9694, 0.9750, 0.9667, 0.9722)
RELU6 = (0.9639, 0.9611, 0.9694, 0.9583, 0.9611)


def make_config(bottleneck="linear", width=1.0, seed=0):
    spec = mobilenet_v2(bottleneck=bottleneck, width=width, num_classes=10)
    return RunConfig(spec=spec, seed=seed)


def labels_of(config):
    return {
        "model": config.spec.name,
        "bottleneck": getattr(config.spec.blocks[0], "bottleneck", "-"),
        "width": f"{config.spec.width:g}",
    }


def make_trial(config, accuracy, *, environment=CPU, epochs=3, **options):
    return success(config, make_result(accuracy, epochs=epochs, **options), environment)


def make_arm(accuracies, bottleneck="linear", width=1.0, **options):
    return [
        make_trial(make_config(bottleneck, width, seed), accuracy, **options)
        for seed, accuracy in enumerate(accuracies)
    ]


def summary_of(trials, requested=None, baseline=make_config(), named_axes=("bottleneck",), **more):  # noqa: B008
    requested = [trial.config for trial in trials] if requested is None else requested
    baseline = baseline and Arm.of(baseline)
    return summarize(trials, requested, labels_of, baseline=baseline, named_axes=named_axes, **more)


@functools.cache
def pair():
    """The report of two arms of five seeds each."""
    return summary_of(make_arm(LINEAR) + make_arm(RELU6, "relu6"))


def many_arms(epochs=20):
    """Twelve arms on two axes, of any accuracy."""
    rng = np.random.default_rng(0)
    trials = [
        trial
        for bottleneck in ("linear", "relu6")
        for width in (1.4, 1.0, 0.75, 0.5, 0.35, 0.25)
        for trial in make_arm(rng.uniform(0.9, 0.99, 5), bottleneck, width, epochs=epochs)
    ]
    return summary_of(trials)


@functools.cache
def troubled():
    """Failed seeds, an arm that failed altogether, one from the store, seeds never run."""
    trials = make_arm(LINEAR) + make_arm(RELU6, "relu6")[:3]
    trials.append(failure(make_config("relu6", seed=3), CAUSE, CPU))
    requested = [make_config(b, seed=seed) for b in ("linear", "relu6") for seed in range(5)]
    lost = [failure(make_config("relu6", 0.5, seed), "out of memory", CPU) for seed in (0, 1)]
    requested += [trial.config for trial in lost]
    return summary_of(trials + lost + make_arm((0.95, 0.94), width=0.75), requested)


def shown(summary, width=80):
    """The table's lines as a terminal of so many columns shows them."""
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(rendering.to_table(summary))
    return text.getvalue().splitlines()


def words(lines):
    return " ".join(" ".join(lines).split())
