"""The recipes as data: the published numbers, and costs by arithmetic."""

import re
from pathlib import Path

import numpy as np
import pytest
from flax import traverse_util
from hypothesis import given as given_any
from hypothesis import strategies as st
from messages import one_line
from tiny_network import make_tiny_spec

from mnet_jax import architectures, models
from mnet_jax.analysis import cost
from mnet_jax.commands import catalog
from mnet_jax.commands.arguments import parse
from mnet_jax.commands.planning import PRESUMED_IMAGES, RunArguments, baseline, recipe_name
from mnet_jax.config import AdamW, RmsProp, Sgd
from mnet_jax.options.recipes import RECIPES, SIZED, recipe_for
from mnet_jax.training import optimizer

# Images of the train split, of which a recipe holds a share out.
TRAIN_IMAGES = {"digits": 1_297, "fashion_mnist": 60_000, "imagenet2012": 1_281_167}
# Million multiply-adds at 224 pixels, as the papers print them.
PUBLISHED = {"v1": 569, "v2": 300, "v3-large": 219, "v3-small": 56, "v4-conv-small": 189}
# (batch, epochs): the rate at the start of that epoch, counted from 0, and the kind of rule.
# V1 section 3.2 with Inception V3's; V2 section 6.1; V3 section 6.1.1; torchvision's README; the
# Model Garden's files, whose steps of the rate count from the end of the warm-up here.
RATES = {
    "v1-imagenet": (96, RmsProp, 20, 0.045 * 0.94**10),
    "v2-imagenet": (96, RmsProp, 100, 0.045 * 0.98**100),
    "v2-imagenet-torchvision": (256, Sgd, 299, 0.045 * 0.98**299),
    "v3-large-imagenet": (4096, RmsProp, 300, 0.1 * 0.99**100),
    "v3-small-imagenet": (4096, RmsProp, 300, 0.1 * 0.99**100),
    "v3-large-imagenet-torchvision": (1024, RmsProp, 300, 0.064 * 0.973**150),
    "v1-imagenet-model-garden": (4096, RmsProp, 105, 0.256 * 0.94**40),
    "v2-imagenet-model-garden": (4096, RmsProp, 105, 0.256 * 0.96**40),
    "v3-large-imagenet-model-garden": (4096, AdamW, 352, 0.004 / 2),
    "v4-conv-small-imagenet": (4096, AdamW, 5, 0.002),
}
FEW, MANY = 20, 1_281_167
everywhere = pytest.mark.parametrize("name", RECIPES)


def train_images(data):
    """How many images an epoch trains on."""
    return int(TRAIN_IMAGES[data.name] * (1 - data.validation_fraction))


@everywhere
def test_the_cost_is_three_forward_passes_of_every_image(name):
    config = RECIPES[name].arm.config(1000 if RECIPES[name].data.name == "imagenet2012" else 10)
    madds = cost.count(config.spec, config.data.resolution).madds
    expected = 3 * madds * train_images(config.data) * config.training.epochs
    stated = re.fullmatch(r"(\S+) multiply-adds", RECIPES[name].cost)
    assert stated and float(stated[1]) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", [*RECIPES, *SIZED])
def test_a_recipe_says_where_it_is_from_and_what_it_is_to_reach(name):
    recipe = RECIPES.get(name) or SIZED[name]
    assert all((recipe.title, recipe.source, recipe.cost, recipe.target))


@everywhere
def test_a_recipes_own_data_set_is_trained_by_a_fixed_recipe_whatever_its_size(name):
    for images in (FEW, MANY):
        assert recipe_for(RECIPES[name].data.name, images) in RECIPES


@pytest.mark.parametrize("name", RATES)
def test_the_recipe_is_the_published_one(name):
    batch_size, rule, epoch, rate = RATES[name]
    config = RECIPES[name].arm.config(1000)
    assert config.data.batch_size == batch_size and isinstance(config.training.optimizer, rule)
    steps = train_images(config.data) // batch_size
    found = optimizer.learning_rate(config.training, steps)(epoch * steps)
    assert float(found) == pytest.approx(rate, rel=0.01)
    library = re.search("torchvision|model-garden|v4", name)
    assert config.data.scaling == ("imagenet" if library else "symmetric")
    million = cost.count(config.spec, config.data.resolution).madds / 1e6
    assert million == pytest.approx(PUBLISHED[re.split("-imagenet", name)[0]], rel=0.02)


def arguments(line, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train", *line.split()])
    return parse(RunArguments, "train")


def test_flags_take_the_place_of_a_recipes_data(monkeypatch):
    given = arguments("--recipe v3-small-imagenet --dataset folder --data-dir photos", monkeypatch)
    config, own = baseline(given, FEW), RECIPES["v3-small-imagenet"].arm
    assert (config.spec, config.training) == (own.spec, own.training)
    assert (config.data.name, config.data.directory) == ("folder", "photos")
    assert config.data.validation_fraction == 0.1  # a hundredth is for a million images


@pytest.mark.parametrize(
    ("line", "train", "name", "dataset"),
    [
        ("", FEW, "v2-digits", "digits"),
        ("--dataset fashion_mnist", FEW, "v2-fashion-mnist", "fashion_mnist"),
        ("--dataset cifar10", 45_000, "small-set", "cifar10"),
        ("--dataset cifar10", MANY, "v2-imagenet", "cifar10"),
        ("--dataset folder --data-dir x", FEW, "small-set", "folder"),
        ("--recipe v2-imagenet --dataset folder --data-dir x", FEW, "v2-imagenet", "folder"),
        ("--recipe small-set", 1000, "small-set", "digits"),
        ("--recipe v1-imagenet", MANY, "v1-imagenet", "imagenet2012"),
        ("--dataset imagenet2012:5.1.0", FEW, "v2-imagenet", "imagenet2012:5.1.0"),
    ],
)
def test_a_data_set_has_its_recipe_and_a_recipe_its_data_set(
    line, train, name, dataset, monkeypatch
):
    given = arguments(line, monkeypatch)
    assert (recipe_name(given, train), given.images) == (name, dataset)
    config = baseline(given, train)
    assert config.data.name == dataset
    if name in RECIPES:
        assert config.training == RECIPES[name].training


@pytest.fixture
def saved(tmp_path):
    """A model that was trained at 24 pixels, scaled as torchvision does."""
    model = models.MobileNet(spec=make_tiny_spec())
    shapes = architectures.variable_shapes(model.spec)
    flat = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    view = models.View(resolution=24, photographs=True, scaling="imagenet")
    variables = traverse_util.unflatten_dict(flat, sep="/")
    models.save(tmp_path / "saved.safetensors", model, variables, view=view)
    return str(tmp_path / "saved.safetensors")


def test_a_saved_network_is_fine_tuned_unless_a_recipe_is_named(saved, monkeypatch):
    line = f"--dataset folder --data-dir x --pretrained {saved}"
    given = arguments(line, monkeypatch)
    config, own = baseline(given, FEW), RECIPES["v2-imagenet"].arm
    assert recipe_name(given, FEW) == "fine-tuning" and config.pretrained.path == saved
    assert (config.data.resolution, config.data.scaling) == (24, "imagenet")
    assert config.training != own.training
    given = arguments(f"{line} --recipe v2-imagenet", monkeypatch)
    config = baseline(given, FEW)
    assert recipe_name(given, FEW) == "v2-imagenet" and config.training == own.training
    assert (config.data.resolution, config.data.batch_size) == (224, 96)


def test_fine_tuning_without_a_saved_network_is_refused(monkeypatch):
    given = arguments("--recipe fine-tuning", monkeypatch)
    one_line(ValueError, lambda: baseline(given), "recipe: got 'fine-tuning'")


@pytest.mark.parametrize("name", SIZED)
@given_any(train=st.integers(2, 499_999))
def test_a_sized_recipe_fits_its_set(name, train):
    """Batches, steps and rates by arithmetic."""
    start, fit = RECIPES["v2-imagenet"].arm, SIZED[name].fit
    config, most = fit(start, train), fit(start, PRESUMED_IMAGES)
    batch_size, epochs = config.data.batch_size, config.training.epochs
    assert batch_size <= train
    rates = [c.training.learning_rate / c.data.batch_size for c in (config, most)]
    assert rates[0] == pytest.approx(rates[1])
    # What is refused before the set is read is refused for a set of any size.
    assert most.data.batch_size % batch_size == 0 and epochs <= most.training.epochs
    least, budget = {"fine-tuning": (10, 500), "small-set": (30, 5000)}[name]
    steps = epochs * (train // batch_size)
    assert epochs >= least and (steps < budget + train // batch_size or epochs == least)
    assert config.training.warmup_epochs <= 1  # `--epochs 1` is legal


def test_the_list_and_the_document_have_every_recipe():
    assert [row[0] for row in catalog.recipe_rows()] == [*RECIPES, *SIZED]
    document = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    for name, *cells in catalog.recipe_rows():
        assert f"| {' | '.join((f'`{name}`', *cells))} |\n" in document
