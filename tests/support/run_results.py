"""What a run that never was might have found."""

from mnet_jax.training.results import EpochRecord, RunResult


def make_result(
    accuracy=0.9, *, params=2_236_682, madds=5_900_000, speed=600.0, seconds=30.5, epochs=2
):
    """A result whose validation accuracy comes half as near to `accuracy` with each epoch."""
    history = tuple(
        EpochRecord(
            epoch=i + 1, step=10 * i, learning_rate=0.1, train_loss=1.0, train_accuracy=0.8,
            validation_loss=0.5, validation_accuracy=accuracy * (1 - 0.5 ** (i + 1)),
            seconds=2.0, images_per_second=speed,
        )
        for i in range(epochs)
    )  # fmt: skip
    return RunResult(
        params=params, madds=madds, test_loss=0.2, test_accuracy=accuracy,
        test_count=360, history=history, images_per_second=speed, seconds=seconds,
    )  # fmt: skip
