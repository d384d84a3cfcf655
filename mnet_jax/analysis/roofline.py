"""The roofline model: a lower bound on a program's time from a machine's two limits.

A program takes at least the time of its arithmetic at the peak rate, and at least the time of
moving its bytes at the memory bandwidth.

Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for
multicore architectures", CACM 52 (2009).
"""

from dataclasses import dataclass

from mnet_jax.validation import require


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The measured limits of a machine.

    Attributes:
      flops_per_second: floating point operations per second of a large matrix product; a
        multiply-add counts as two.
      bytes_per_second: memory bandwidth when reading two streams and writing one.
      device: JAX's name of the device, such as `cpu`.
    """

    flops_per_second: float
    bytes_per_second: float
    device: str

    def __post_init__(self) -> None:
        for name in ("flops_per_second", "bytes_per_second"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")

    @property
    def ridge(self) -> float:
        """The operations per byte above which arithmetic is the limit, not memory."""
        return self.flops_per_second / self.bytes_per_second

    def bound_seconds(self, *, madds: int, moved_bytes: int) -> float:
        """Returns a program's least time: the larger of its arithmetic time and memory time."""
        arithmetic = 2 * madds / self.flops_per_second
        return max(arithmetic, moved_bytes / self.bytes_per_second)
