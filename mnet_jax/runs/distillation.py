"""Knowledge distillation: reads the teacher of a run and checks that it can teach the student."""

import numpy as np

from mnet_jax import data, models
from mnet_jax.config import DataConfig, Distillation
from mnet_jax.runs.inference import require_same_classes
from mnet_jax.training.hyperparameters import Teacher
from mnet_jax.validation import require


def require_fit(distillation: Distillation, images: DataConfig) -> None:
    """Raises ValueError unless a saved model expects pixels that are scaled as the student's are.

    The student's resolution may be another one than the teacher was trained at. A model that was
    saved without a view is not checked.

    Raises:
      SavedModelError: the saved model is missing.
    """
    view = models.read_view(distillation.path)
    if view is not None:
        legal = f"{view.scaling}, as the teacher was trained with"
        require(images.scaling == view.scaling, "scaling", images.scaling, legal)


def read_teacher(
    distillation: Distillation, images: DataConfig, dataset: data.Dataset
) -> tuple[models.MobileNet, Teacher]:
    """Returns the network of a teacher, and its variables with their part in the loss.

    Raises:
      SavedModelError: the model is missing or has changed.
      ValueError: the teacher's classes or its scaling of pixels are not the student's.
    """
    if models.digest(distillation.path) != distillation.sha256:
        raise models.SavedModelError(f"{distillation.path}: not the teacher that the config names")
    require_fit(distillation, images)
    saved = models.load(distillation.path)
    try:
        require_same_classes(saved, dataset.class_names, dataset.name)
    except ValueError as error:
        raise ValueError(f"teacher: {distillation.path} cannot teach, {error}") from error
    return saved.model, Teacher(
        variables=saved.variables,
        weight=np.float32(distillation.teacher_weight),
        temperature=np.float32(distillation.temperature),
    )
