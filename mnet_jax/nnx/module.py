"""Any network of `models` as an NNX module.

The layers are those of the Linen network, applied as a function; they are not implemented a second
time. This module holds their variables as plain `nnx.Param` and `nnx.BatchStat`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from mnet_jax import models
from mnet_jax.architectures import NetworkSpec
from mnet_jax.validation import require

Array = jax.Array
KINDS: dict[str, type[nnx.Variable]] = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
SIDE = 256  # pixels of the images that `init` traces; large enough for every network


class Part(nnx.Module):
    """A part of a network: its attributes are variables and further parts."""


class MobileNet(Part):
    """A network of the MobileNet family with its variables.

    The variables have the paths of `architectures.variable_shapes`, without the collection:
    `network.stem.conv.kernel` is an `nnx.Param`, `network.stem.norm.mean` an `nnx.BatchStat`. As
    with other NNX modules, a new network is in training mode: it normalizes by the statistics of
    the batch, updates the running statistics and applies dropout. `eval()` and `train()` switch.

    Attributes:
      linen: the Linen network that computes the layers.
      deterministic: whether the network is in inference mode.
      rngs: the stream `dropout`.
    """

    def __init__(
        self,
        linen: models.MobileNet,
        variables: Mapping[str, Any] | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        """Makes a network.

        Args:
          linen: the network, such as `models.mobilenet_v2()`.
          variables: its `params` and `batch_stats`; None initializes them at random.
          rngs: streams `params` (for random variables) and `dropout`, or a default stream.

        Raises:
          ValueError: the variables are not the network's.
        """
        images = jnp.zeros((1, SIDE, SIDE, linen.spec.stem.inputs))
        initialize = partial(linen.init, train=False)
        if variables is None:
            variables = jax.jit(initialize)(rngs.params(), images)
        else:
            wanted = jax.eval_shape(initialize, jax.random.key(0), images)
            _require_fit(variables, _shapes(wanted))
        self.linen = linen
        self.deterministic = False
        self.rngs = nnx.Rngs(dropout=rngs.dropout())
        for collection, tree in variables.items():
            for path, value in traverse_util.flatten_dict(dict(tree)).items():
                part: nnx.Module = self
                for name in path[:-1]:
                    if not hasattr(part, name):
                        setattr(part, name, Part())
                    part = getattr(part, name)
                setattr(part, path[-1], KINDS[collection](jnp.asarray(value)))

    @property
    def spec(self) -> NetworkSpec:
        """The architecture."""
        return self.linen.spec

    @property
    def variables(self) -> dict[str, Any]:
        """The variables as the Linen network takes them: {"params": ..., "batch_stats": ...}.

        `models.save`, `models.fuse` and `weights.to_...` take these together with `linen`.
        """
        states = {name: nnx.state(self, kind) for name, kind in KINDS.items()}
        return {name: nnx.to_pure_dict(state) for name, state in states.items() if state}

    def __call__(self, images: Array) -> Array:
        """Returns the float32 logits [b, num_classes] of images [b, h, w, c].

        Raises:
          ValueError: as `models.MobileNet`.
        """
        if self.deterministic:
            logits = self.linen.apply(self.variables, images, train=False)
            assert isinstance(logits, jax.Array)
            return logits
        logits, updates = self.linen.apply(
            self.variables,
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": self.rngs.dropout()},
        )
        self._update(updates["batch_stats"])
        return logits

    def features(self, images: Array) -> dict[int, Array]:
        """Returns the last feature map of each stride, in inference mode.

        See `models.MobileNet.features`.
        """
        return self.linen.apply(self.variables, images, train=False, method="features")  # type: ignore[return-value]

    def _update(self, statistics: Mapping[str, Any]) -> None:
        """Sets the running statistics."""
        state = nnx.state(self, nnx.BatchStat)
        nnx.replace_by_pure_dict(state, dict(statistics))
        nnx.update(self, state)


def from_variables(
    linen: models.MobileNet, variables: Mapping[str, Any], *, rngs: nnx.Rngs
) -> MobileNet:
    """Returns a network with given variables, such as those of `models.load` or `weights.from_...`.

        model, variables, *_ = models.load("runs/latest")
        network = nnx.from_variables(model, variables, rngs=Rngs(dropout=0))

    The network is in training mode, as a new one is.

    Args:
      linen: the network.
      variables: its `params` and `batch_stats`.
      rngs: the stream `dropout`, or a default stream.

    Raises:
      ValueError: the variables are not the network's.
    """
    return MobileNet(linen, variables, rngs=rngs)


def _shapes(variables: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    return {path: tuple(jnp.shape(value)) for path, value in flat.items()}


def _require_fit(variables: Mapping[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError, with the first difference, unless paths and shapes are the network's."""
    given = _shapes(variables)
    for path in [*wanted, *given]:
        legal = f"{list(wanted[path])}" if path in wanted else "no such variable"
        got = f"{path} {list(given[path])}" if path in given else f"no {path}"
        require(given.get(path) == wanted.get(path), "variables", got, legal)
