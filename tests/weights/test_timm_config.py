"""What timm writes beside its weights is read as timm reads it; what lies is refused."""

import dataclasses
import json

import numpy as np
import pytest
from messages import one_line
from PIL import Image
from sklearn.datasets import load_sample_images
from weights_parity import compiled

from mnet_jax import data, models, weights

MEANS = {(0.485, 0.456, 0.406): "imagenet", (0.5, 0.5, 0.5): "symmetric", (0, 0, 0): "unit"}
SMALL = {
    "architecture": "mobilenetv4_conv_small",
    "num_classes": 3,
    "num_features": 1280,
    "global_pool": "avg",
    "pretrained_cfg": {
        "tag": "e2400_r224_in1k",
        "custom_load": False,
        "input_size": [3, 224, 224],
        "test_input_size": [3, 256, 256],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "test_crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 3,
        "pool_size": [7, 7],
        "first_conv": "conv_stem",
        "classifier": "classifier",
    },
}


def changed(**fields):
    """`SMALL` with other fields; those of `pretrained_cfg` begin with `inner_`."""
    config = json.loads(json.dumps(SMALL))
    for name, value in fields.items():
        inside = name.startswith("inner_")
        place = config["pretrained_cfg"] if inside else config
        place[name.removeprefix("inner_")] = value
    return config


def names_of_timm():
    try:
        import timm
    except ImportError:
        return []
    return timm.list_models("*mobilenetv[1-4]*", pretrained=True)


@pytest.mark.parametrize("name", names_of_timm())
def test_the_config_that_timm_writes_is_read_as_timm_reads_it(name, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is the oracle")
    torch = pytest.importorskip("torch", reason="PyTorch, the extra [torch], is the oracle")
    with torch.device("meta"):
        module = timm.create_model(name)
    timm.models._hub.save_config_for_hf(module, tmp_path / "config.json")
    config = json.loads((tmp_path / "config.json").read_text())
    expected = timm.data.resolve_model_data_config(module)
    if any(part in name for part in ("_aa_", "blur", "_rw")):
        one_line(ValueError, lambda: weights.read_timm_config(config), name, "without")
        return
    found = weights.read_timm_config(config)
    assert (found.name, found.num_classes) == (name, module.num_classes)
    assert found.class_names == ()
    view = found.view
    assert (3, view.resolution, view.resolution) == expected["input_size"]
    assert (view.crop_share, view.interpolation) == (
        expected["crop_pct"], expected["interpolation"],
    )  # fmt: skip
    assert view.scaling == MEANS[expected["mean"]] and view.photographs
    assert found.spec == weights.timm_spec(name, module.num_classes)


def test_a_fine_tuned_networks_config_has_its_classes(tmp_path):
    timm = pytest.importorskip("timm", reason="timm is the oracle")
    torch = pytest.importorskip("torch", reason="PyTorch, the extra [torch], is the oracle")
    with torch.device("meta"):
        module = timm.create_model("mobilenetv2_050.lamb_in1k", num_classes=3)
    named = {"label_names": ["ant", "bee", "cat"]}
    timm.models._hub.save_config_for_hf(module, tmp_path / "config.json", model_config=named)
    found = weights.read_timm_config(json.loads((tmp_path / "config.json").read_text()))
    assert (found.num_classes, found.class_names) == (3, ("ant", "bee", "cat"))
    assert found.spec.head.num_classes == 3


@pytest.mark.slow
def test_a_network_that_timm_saved_gives_timms_logits_of_a_photograph(tmp_path):
    """From the folder alone: network, weights, crop, filter and scaling."""
    timm = pytest.importorskip("timm", reason="timm is the oracle")
    torch = pytest.importorskip("torch", reason="PyTorch, the extra [torch], is the oracle")
    pytest.importorskip("huggingface_hub", reason="timm saves models with it")
    torch.manual_seed(0)
    module = timm.create_model("mobilenetv4_conv_small_050.e3000_r224_in1k", num_classes=5).eval()
    settings = {"interpolation": "bicubic", "crop_pct": 0.875, "input_size": (3, 224, 224)}
    timm.models.save_for_hf(module, tmp_path, safe_serialization=True, data_config=settings)
    photograph = Image.fromarray(load_sample_images().images[1]).resize((384, 256))
    photograph.save(tmp_path / "photograph.png")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module))
    with torch.no_grad():
        theirs = module(transform(photograph)[None]).numpy()
    found = weights.read_timm_config(json.loads((tmp_path / "config.json").read_text()))
    model = models.MobileNet(spec=found.spec)
    variables = weights.from_timm(weights.read(tmp_path / "model.safetensors", model), model)
    image = data.read_eval_image(tmp_path / "photograph.png", found.view)
    ours = compiled(lambda v, x: model.apply(v, x, train=False), variables, image[None])
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * scale)
    rescaled = dataclasses.replace(found.view, scaling="imagenet")
    other = data.read_eval_image(tmp_path / "photograph.png", rescaled)
    other = compiled(lambda v, x: model.apply(v, x, train=False), variables, other[None])
    assert np.abs(other - theirs).max() > 1e-2 * scale


def test_a_config_says_all_of_a_model():
    found = weights.read_timm_config(SMALL)
    assert found.name == "mobilenetv4_conv_small.e2400_r224_in1k" and found.num_classes == 3
    assert found.view == models.View(
        resolution=224, photographs=True, scaling="imagenet", crop_share=0.95,
        interpolation="bicubic",
    )  # fmt: skip
    assert found.spec.name == "mobilenet_v4_conv_small" and found.spec.dialect.name == "timm"


def test_what_is_missing_has_timms_defaults():
    timm_data = pytest.importorskip("timm.data", reason="timm is the oracle")
    expected = timm_data.resolve_data_config(pretrained_cfg={"tag": ""})
    found = weights.read_timm_config({"architecture": "tf_mobilenetv3_small_100"})
    assert found.name == "tf_mobilenetv3_small_100" and found.num_classes == 1000
    assert found.view == models.View(
        resolution=expected["input_size"][1],
        photographs=True,
        scaling=MEANS[expected["mean"]],
        crop_share=expected["crop_pct"],
        interpolation=expected["interpolation"],
    )
    assert weights.read_timm_config(changed(inner_mean=None, inner_std=None)).view.scaling == (
        "imagenet"
    )


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"label_names": ["ant", "bee", "cat"]}, ("ant", "bee", "cat")),
        ({"inner_label_names": ["ant", "bee", "cat"]}, ("ant", "bee", "cat")),
        ({"label_names": {"2": "cat", "0": "ant", "1": "bee"}}, ("ant", "bee", "cat")),
        ({"inner_labels": ["ant", "bee", "cat"]}, ("ant", "bee", "cat")),
        ({"label_names": []}, ()),
        ({}, ()),
    ],
)
def test_class_names_are_those_of_the_file(fields, names):
    assert weights.read_timm_config(changed(**fields)).class_names == names


def test_a_file_of_an_early_version_has_no_inner_object():
    flat = {"architecture": "mobilenetv2_100", **SMALL["pretrained_cfg"], "labels": ["a", "b", "c"]}
    found = weights.read_timm_config(flat)
    assert (found.num_classes, found.class_names) == (3, ("a", "b", "c"))
    assert found.view == weights.read_timm_config(SMALL).view


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([], ["config: got []", "an object"]),
        ({}, ["config.architecture: got None"]),
        ("mobilenetv2_100", ["config: got 'mobilenetv2_100'"]),
        (changed(architecture=7), ["config.architecture: got 7"]),
        (changed(architecture="mobilenetv2_100.ra_in1k"), ["config.architecture", "without a tag"]),
        (changed(architecture="resnet50"), ["timm_name: got 'resnet50.e2400_r224_in1k'"]),
        (changed(architecture="mobilenetv4_conv_blur_medium"), ["without blur pooling"]),
        (changed(architecture="x" * 10**6), ["timm_name: got 'xxx"]),
        (changed(architecture="mobilenetv2_100\nall is well"), ["timm_name: got"]),
        (changed(inner_tag=["a"]), ["config.pretrained_cfg.tag: got ['a']"]),
        (changed(inner_tag="a/../../b"), ["timm_name: got"]),
        (changed(pretrained_cfg=3), ["config.pretrained_cfg: got 3"]),
        (changed(num_classes=0), ["config.num_classes: got 0", "1 or more"]),
        (changed(num_classes=2.5), ["config.num_classes: got 2.5"]),
        (changed(num_classes="3"), ["config.num_classes: got '3'"]),
        (changed(num_classes=True), ["config.num_classes: got True"]),
        (changed(num_classes=None), ["config.num_classes: got None"]),
        (changed(global_pool="max"), ["config.global_pool: got 'max', legal: avg"]),
        (changed(model_args=[1]), ["config.model_args: got [1]"]),
        (changed(model_args={"act_layer": "gelu"}), ["config.model_args.act_layer: got 'gelu'"]),
        (changed(model_args={"in_chans": 1}), ["config.model_args.in_chans: got 1, legal: 3"]),
        (changed(model_args={"num_classes": 9}), ["config.model_args.num_classes: got 9"]),
        (changed(model_args={"a\nb": 9}), ["config.model_args.a b: got 9"]),
        (changed(inner_custom_load=True), ["custom_load: got True"]),
        (changed(inner_label_offset=1), ["label_offset: got 1"]),
        (changed(inner_input_size=[1, 28, 28]), ["input_size: got [1, 28, 28]"]),
        (changed(inner_input_size=[3, 224, 160]), ["input_size: got [3, 224, 160]"]),
        (changed(inner_input_size=[3, 0, 0]), ["input_size: got [3, 0, 0]"]),
        (changed(inner_input_size=224), ["input_size: got 224"]),
        (changed(inner_input_size=["3", 8, 8]), ["input_size"]),
        (changed(inner_interpolation="random"), ["interpolation: got 'random'", "bilinear or bic"]),
        (changed(inner_interpolation=["bicubic"]), ["interpolation: got ['bicubic']"]),
        (changed(inner_crop_pct=1.2), ["crop_pct: got 1.2", "up to 1"]),
        (changed(inner_crop_pct=0), ["crop_pct: got 0"]),
        (changed(inner_crop_pct=float("nan")), ["crop_pct: got nan"]),
        (changed(inner_crop_pct="0.9"), ["crop_pct: got '0.9'"]),
        (changed(inner_crop_mode="squash"), ["crop_mode: got 'squash', legal: center"]),
        (changed(inner_mean=[0, 0, 1]), ["mean and std: got [0, 0, 1] and", "[0.5, 0.5, 0.5]"]),
        (changed(inner_std=[0.5] * 3), ["mean and std", "[0.485, 0.456, 0.406] and [0.229"]),
        (changed(inner_mean=[float("nan")] * 3), ["mean: got [nan, nan, nan]", "0 to 1"]),
        (changed(inner_std=[10**400] * 3), ["std: got [1000"]),
        (changed(inner_mean=0.5), ["mean: got 0.5", "three numbers"]),
        (changed(inner_mean=["0.5"] * 3), ["mean: got ["]),
        (changed(inner_std=[0.5] * 4), ["std: got ["]),
        (changed(label_names=["ant"]), ["label_names: got 1, legal: 3 names"]),
        (changed(label_names=["ant", 2, "bee"]), ["label_names: got ['ant', 2, 'bee']"]),
        (changed(label_names={"0": "a", "1": "b", "3": "c"}), ["label_names", "from 0 to 2"]),
        (changed(label_names="abc"), ["label_names: got 'abc', legal: a list"]),
        (changed(label_names=["x" * 10**6]), ["label_names"]),
    ],
)
def test_a_config_that_lies_is_refused_in_one_line(config, words):
    message = one_line(ValueError, lambda: weights.read_timm_config(config), *words)
    assert len(message) < 500
