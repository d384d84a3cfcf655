"""Starts a run from pretrained weights."""

import dataclasses

from mnet_jax import models
from mnet_jax.architectures import NetworkSpec
from mnet_jax.config import Pretrained
from mnet_jax.training.step import TrainState
from mnet_jax.validation import require


def require_fit(pretrained: Pretrained, spec: NetworkSpec) -> None:
    """Raises ValueError unless the saved model is a network `spec`, apart from training details.

    The training details are the number of classes, dropout, and the dialect's momentum and
    initializer.

    Raises:
      SavedModelError: the saved model is missing.
    """
    legal = "a network that is neither folded nor quantized"
    require(models.is_plain(pretrained.path), "pretrained", pretrained.path, legal)
    saved = models.read_spec(pretrained.path)
    for field in dataclasses.fields(NetworkSpec):
        before, now = getattr(saved, field.name), getattr(spec, field.name)
        if field.name == "head":
            now = dataclasses.replace(now, num_classes=before.num_classes, dropout=before.dropout)
        if field.name == "dialect":  # its momentum and initializer may differ
            before, now = before.name, now.name
        if before != now:
            raise ValueError(
                f"pretrained: {pretrained.path} has another {field.name}, "
                f"legal: {spec.name} of width {spec.width:g} with the same options"
            )


def initialize_from(pretrained: Pretrained, state: TrainState, spec: NetworkSpec) -> TrainState:
    """Returns the state before the first step, with the weights of a saved model.

    If the number of classes differs, the classifier keeps its random weights.

    Raises:
      SavedModelError: the model is missing or has changed.
      ValueError: the saved model is not of the network `spec`.
    """
    if models.digest(pretrained.path) != pretrained.sha256:
        raise models.SavedModelError(f"{pretrained.path}: not the weights that the config names")
    require_fit(pretrained, spec)
    saved = models.load(pretrained.path)
    params, batch_stats = dict(saved.variables["params"]), saved.variables["batch_stats"]
    if saved.model.spec.head.num_classes != spec.head.num_classes:
        classifier = state.params["head"]["classifier"]
        params["head"] = {**params.get("head", {}), "classifier": classifier}
    started = state.replace(params=params, batch_stats=batch_stats)
    return started if state.average is None else started.averaging()
