"""Python in README.md and in docs runs as it stands, from a clean start, block after block.

What a document reads that a reader has and a test has not stands in for itself here: weights of
right shapes with random numbers, a run's directory, a package of a few images. So does a network of
fewer blocks for MobileNetV2: the README runs it operation by operation, and JAX compiles each.
"""

import json
import re
import sys
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from idx_files import write_idx
from PIL import Image
from safetensors.numpy import save, save_file
from small_networks import (
    images_of,
    model_and_variables,
    quick_jit,
    selected,
    small_v2,
    small_v3,
)

from mnet_jax import architectures, models, weights
from mnet_jax.data.builders import FASHION_FILES

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```py(?:thon)?\n(.*?)```", flags=re.DOTALL)
DOCUMENTS = {
    str(path.relative_to(ROOT)): BLOCK.findall(path.read_text())
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
SLOW = (  # three compile large networks operation by operation, one writes 480 images
    "README.md",
    "docs/architectures.md",
    "docs/dense.md",
    "docs/results/quantization/README.md",
)


def v2_of_few_blocks(published=architectures.mobilenet_v2):
    """V2's factory, of a block for each stride; where names are another library's, of all."""

    def factory(**options):
        spec = published(**options)
        return selected(spec, (0, 1, 3, 6, 10, 13)) if options["dialect"] == "paper" else spec

    return factory


def random_variables(model):
    rng = np.random.default_rng(0)
    shapes = architectures.variable_shapes(model.spec)
    flat = {name: rng.uniform(0.5, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def write_weights(folder):
    """What the README reads: files of timm and torchvision, and the directory of a run."""
    torch = pytest.importorskip("torch")
    v4 = models.mobilenet_v4_conv_small(dialect="timm")
    state = weights.to_timm(random_variables(v4), v4)
    save_file(state, folder / "mobilenetv4_conv_small.safetensors")
    v2 = models.mobilenet_v2(dialect="torchvision")
    state = weights.to_torchvision(random_variables(v2), v2)
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    torch.save(tensors, folder / "mobilenet_v2.pth")
    trained = models.mobilenet_v2(num_classes=10)
    (folder / "runs/latest").mkdir(parents=True)
    models.save(folder / "runs/latest" / models.FILE_NAME, trained, random_variables(trained))


def write_solar_cells(folder):
    """`elpv_dataset` of PyPI, with two images."""
    data = folder / "elpv_dataset" / "data"
    (data / "images").mkdir(parents=True)
    (data.parent / "__init__.py").touch()
    rows = [("images/cell0001.png", 1.0), ("images/cell0002.png", 0.0)]
    for name, _ in rows:
        Image.new("L", (300, 300)).save(data / name)
    text = "".join(f"{name}  {probability}    mono\n" for name, probability in rows)
    (data / "labels.csv").write_text(text)


def write_clothes(folder):
    """Fashion-MNIST's four files, with a few images, where a distribution puts them."""
    folder = folder / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in zip(FASHION_FILES, (40, 40, 12, 12), strict=True):
        size = (count, 28, 28) if "images" in name else count
        write_idx(folder / name, rng.integers(0, 10, size))


def write_quantized_runs(folder):
    """A V2 and a V3 of a few blocks, as the runs of two sweeps; scikit-image's wheel."""
    names = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png",
             "motorcycle_left.png", "rocket.jpg")  # fmt: skip
    with zipfile.ZipFile(folder / "scikit_image-0.whl", "w") as wheel:
        for name in names:
            with wheel.open(f"skimage/data/{name}", "w") as file:
                form = "JPEG" if name.endswith("jpg") else "PNG"
                Image.new("L", (20, 30)).save(file, form)
    view = models.View(resolution=32, photographs=False)
    for name, spec in (("v2", small_v2()), ("v3", small_v3())):
        run = folder / f"results/{name}/runs/{name}"
        run.mkdir(parents=True)
        models.save(run / models.FILE_NAME, *model_and_variables(spec), view=view)


def require_same_logits(folder):
    """The networks that were rescaled give the logits of those before; their kernels differ."""
    images = images_of(2, 32, 32, 3)
    for name in ("v2", "v3"):
        before = models.load(folder / f"results/{name}/runs/{name}")
        after = models.load(folder / f"{name}-{name}.safetensors")
        logits, rescaled = (
            np.asarray(quick_jit(partial(each.model.apply, train=False))(each.variables, images))
            for each in (before, after)
        )
        np.testing.assert_allclose(rescaled, logits, atol=1e-3 * np.abs(logits).max())
        largest = [np.abs(x).max() for x in jax.tree.leaves(after.variables)]
        assert max(largest) > 50


def write_small_run(folder):
    """A run with a V2 of a few blocks."""
    run = folder / "runs/latest"
    run.mkdir(parents=True)
    view = models.View(resolution=32, photographs=False)
    models.save(run / models.FILE_NAME, *model_and_variables(small_v2()), view=view)


def add_to_hub(server):
    """The repository of docs/hub.md, as timm fills it."""
    v4 = models.mobilenet_v4_conv_small(dialect="timm")
    images = {"input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bicubic"}
    config = {"architecture": "mobilenetv4_conv_small", "num_classes": 1000}
    files = {
        models.FILE_NAME: save(weights.to_timm(random_variables(v4), v4)),
        "config.json": json.dumps(config | {"pretrained_cfg": images}).encode(),
    }
    server.add("timm/mobilenetv4_conv_small.e2400_r224_in1k", files)


def write_segmenter(folder):
    """A file of torchvision's LR-ASPP."""
    torch = pytest.importorskip("torch")
    network = architectures.mobilenet_v3("large", dialect="torchvision")
    model = models.Segmenter(spec=architectures.lraspp(network))
    shapes = architectures.segmentation.variable_shapes(model.spec)
    flat = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    variables = traverse_util.unflatten_dict(flat, sep="/")
    state = weights.to_torchvision_segmentation(variables, model)
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    torch.save(tensors, folder / "lraspp_mobilenet_v3_large.pth")


STAND_INS = {
    "docs/dense.md": write_segmenter,
    "docs/export.md": write_small_run,
    "docs/results/quantization/README.md": write_quantized_runs,
    "README.md": write_weights,
    "docs/training.md": write_solar_cells,
    "docs/results/analysis/README.md": write_clothes,
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name, blocks in DOCUMENTS.items()
        if blocks
    ],
)
@pytest.mark.usefixtures("quickly_compiled", "data_folder")
def test_python_in_documents_runs_block_after_block(name, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    if name == "README.md":
        monkeypatch.setattr(architectures, "mobilenet_v2", v2_of_few_blocks())
    if name == "docs/hub.md":
        add_to_hub(request.getfixturevalue("hub_server"))
    STAND_INS.get(name, lambda folder: None)(tmp_path)
    names = {"__name__": "__main__"}
    try:
        for number, block in enumerate(DOCUMENTS[name], start=1):
            exec(compile(block, f"{name}, block {number}", "exec"), names)
    finally:
        sys.modules.pop("elpv_dataset", None)
    if name == "docs/training.md":
        assert {path.parent.name for path in tmp_path.glob("cells/*/*.png")} == {
            "defective", "functional",
        }  # fmt: skip
    if name == "docs/results/quantization/README.md":
        require_same_logits(tmp_path)
        crops = [path.parts[-3:-1] for path in tmp_path.glob("photographs/*/*/*.png")]
        assert {*Counter(crops).items()} >= {(("test", "china"), 32), (("train", "rocket"), 16)}
    if name == "README.md":
        assert names["network"](jnp.zeros((1, 32, 32, 3))).shape == (1, 10)


def test_every_document_is_looked_at():
    """None is passed over for the way in which it marks its Python."""
    assert {"README.md", "docs/training.md", "docs/data.md", "docs/ablations.md"} <= {
        name for name, blocks in DOCUMENTS.items() if blocks
    }
    for name, blocks in DOCUMENTS.items():
        text = (ROOT / name).read_text()
        assert len(re.findall(r"^ *```py", text, flags=re.MULTILINE)) == len(blocks), name
        assert not re.search(r"^>>> ", text, flags=re.MULTILINE), name
