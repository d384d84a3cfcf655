"""The roofline: the least time that a machine's arithmetic and memory allow a program.

Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52 (2009). Nothing runs faster than its arithmetic at the peak rate, nor
faster than its bytes at the bandwidth.
"""

from dataclasses import dataclass

from mnet_jax.validation import require


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine was measured to do.

    Attributes:
      flops_per_second: floating point operations of a large matrix product, two a multiply-add.
      bytes_per_second: to and from memory, reading two streams and writing one.
      device: JAX's name of what computed, such as `cpu`.
    """

    flops_per_second: float
    bytes_per_second: float
    device: str

    def __post_init__(self) -> None:
        for name in ("flops_per_second", "bytes_per_second"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")

    @property
    def ridge(self) -> float:
        """The operations per byte from which on arithmetic is what limits."""
        return self.flops_per_second / self.bytes_per_second

    def bound_seconds(self, *, madds: int, moved_bytes: int) -> float:
        """The least time of a program: the larger of its arithmetic's and its bytes'."""
        arithmetic = 2 * madds / self.flops_per_second
        return max(arithmetic, moved_bytes / self.bytes_per_second)
