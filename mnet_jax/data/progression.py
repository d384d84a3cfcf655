"""Progressive resizing: images that grow while a network learns (arXiv:2104.00298, section 4.2).

Small images are quick, and what is learned from them serves larger ones.
"""

from mnet_jax.config import DataConfig

# Each side is a compilation, so let there be few; and networks halve them five times.
_MULTIPLE, _SMALL_MULTIPLE = 32, 4
_SMALL = 64  # pixels


def resolution_of(config: DataConfig, epoch: int, epochs: int) -> int:
    """The side of the training images in an epoch, counted from 0 of `epochs`.

    It rises linearly from `start_resolution` in the first epoch to `resolution` in the last, as in
    the paper's algorithm 1 with a stage for each epoch; in between to the nearest multiple of 32,
    or of 4 for a resolution below 64.
    """
    first, last = config.start_resolution, config.resolution
    if not first or epoch >= epochs - 1:
        return last
    if epoch == 0:
        return first
    multiple = _MULTIPLE if last >= _SMALL else _SMALL_MULTIPLE
    linear = first + (last - first) * epoch / (epochs - 1)
    return min(max(round(linear / multiple) * multiple, first), last)
