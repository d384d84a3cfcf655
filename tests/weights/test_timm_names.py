"""Every name that timm lists for V1 to V4 means timm's network, or is refused with the reason."""

import re

import numpy as np
import pytest
from flax import traverse_util
from messages import one_line
from weights_parity import compiled, random_images, random_variables

from mnet_jax import architectures, models, weights
from mnet_jax.analysis import cost
from mnet_jax.weights.timm_names import parse_timm_name, timm_spec

WITHOUT = {  # why a name is refused, by a part of it
    "_aa_": "average pooling",
    "_blur_": "blur pooling",
    "v3_rw": "squeeze-and-excitation",
}
OWN = {  # networks that no other test compares with timm's, and the size of their images
    "mobilenetv1_100h": (65, 64),
    "mobilenetv2_110d": (64, 65),
    "mobilenetv3_large_150d": (65, 64),
    "mobilenetv3_small_050": (97, 64),
    "mobilenetv4_conv_small_035": (64, 97),
    "mobilenetv4_hybrid_medium_075": (65, 97),
}


def names_of_timm():
    """All names of V1 to V4, with tags and without; none if timm is not installed."""
    try:
        import timm
    except ImportError:
        return []
    plain = timm.list_models("*mobilenetv[1-4]*")
    return sorted({*plain, *timm.list_models("*mobilenetv[1-4]*", pretrained=True)})


def refused(name):
    return next((reason for part, reason in WITHOUT.items() if part in name), None)


NAMES = names_of_timm()
NETWORKS = [name for name in NAMES if "." not in name]
CONVERTED = [name for name in NETWORKS if not refused(name)]
MORE = [
    pytest.param(name, (64, 65), marks=pytest.mark.exhaustive)
    for name in CONVERTED
    if name not in OWN
]


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm", reason="timm is the oracle")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch, the extra [torch], is the oracle")


def ones(spec):
    shapes = architectures.variable_shapes(spec)
    flat = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def test_all_of_timms_names_are_tested(timm):
    assert len(NETWORKS) >= 35 and len(NAMES) > len(NETWORKS)
    assert {"mobilenetv1_100h", "mobilenetv4_hybrid_large_075"} <= {*NETWORKS}
    assert OWN.keys() <= {*CONVERTED} and len(CONVERTED) >= 25


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_known_or_refused_with_the_reason(name):
    if reason := refused(name):
        one_line(ValueError, lambda: timm_spec(name), name, reason)
    else:
        assert timm_spec(name, 7).head.num_classes == 7
        assert timm_spec(name) == timm_spec(name.partition(".")[0])


@pytest.mark.parametrize("name", CONVERTED)
def test_the_layers_have_timms_names_and_shapes_and_the_counts_are_timms(name, timm, torch):
    with torch.device("meta"):
        module = timm.create_model(name, num_classes=10)
    spec = timm_spec(name, 10)
    state = weights.to_timm(ones(spec), models.MobileNet(spec=spec))
    theirs = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert {key: value.shape for key, value in state.items()} == theirs
    assert list(state) == list(theirs)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    assert cost.count(spec, 64).params == parameters


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [*OWN.items(), *MORE])
def test_logits_are_timms(name, size, timm, torch):
    """With timm's initial weights, and the statistics of random images, so that layers matter."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    module = timm.create_model(name, num_classes=10)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0  # the statistics are those of the next batch
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.uniform_(part.bias, -0.5, 0.5)
    images = rng.uniform(-1, 1, (8, *size, 3)).astype(np.float32)
    with torch.no_grad():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        module.train()(pixels)
        rounded = module.eval()(pixels).numpy()
        state = {key: value.clone() for key, value in module.state_dict().items()}
        theirs = module.double()(pixels.double()).numpy()
    model = models.MobileNet(spec=timm_spec(name, 10))
    variables = weights.from_timm(state, model, image_size=size)
    ours = compiled(lambda v, x: model.apply(v, x, train=False), variables, images)
    scale = np.abs(theirs).max()
    assert theirs.std(0).mean() > 1e-2 * scale, "the logits do not depend on the image"
    # The maps of these images are so small that timm's own float32 can be wrong by more than 1e-4.
    error = max(1e-4 * scale, 2 * np.abs(rounded - theirs).max())
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=error)


@pytest.mark.parametrize("name", [name for name in NAMES if "." in name])
def test_classes_and_resolution_are_those_of_timms_config(name, timm):
    config = timm.get_pretrained_cfg(name)
    if not refused(name):
        found = parse_timm_name(name)
        assert found.tag == name.partition(".")[2]
        assert found.num_classes in (config.num_classes, None)
        assert found.resolution in (config.input_size[1], None)
        assert found.num_classes or found.tag.endswith("in21k")
        assert bool(found.resolution) == bool(re.search(r"_r\d", name))


@pytest.mark.parametrize(
    ("name", "network", "width", "dialect"),
    [
        ("mobilenetv1_025.my_in1k", "mobilenet_v1", 0.25, "timm"),
        ("mobilenetv2_130", "mobilenet_v2", 1.3, "timm"),
        ("tf_mobilenetv3_small_125.in1k", "mobilenet_v3_small", 1.25, "slim"),
        ("mobilenetv4_conv_large_050.e1_r64_mine", "mobilenet_v4_conv_large", 0.5, "timm"),
    ],
)
def test_every_width_and_tag_is_legal(name, network, width, dialect):
    spec = timm_spec(name)
    assert (spec.name, spec.width, spec.dialect.name) == (network, width, dialect)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet50", "MobileNet V1 to V4"),
        ("mobilenetv5_300m", "MobileNet V1 to V4"),
        ("mobilenet_edgetpu_100", "MobileNet V1 to V4"),
        ("mobilenetv2", "MobileNet V1 to V4"),
        ("mobilenetv2_000", "MobileNet V1 to V4"),
        ("mobilenetv2_100h", "MobileNet V1 to V4"),
        ("tf_mobilenetv2_100", "MobileNet V1 to V4"),
        ("mobilenetv4_conv_huge", "MobileNet V1 to V4"),
        ("mobilenetv3_100", "MobileNet V1 to V4"),
        ("mobilenetv2_100.", "MobileNet V1 to V4"),
        ("mobilenetv2_100.a/../b", "MobileNet V1 to V4"),
        ("mobilenetv2_100\n", "MobileNet V1 to V4"),
        ("mobilenetv2_\u0661\u0660\u0660", "MobileNet V1 to V4"),
        ("", "MobileNet V1 to V4"),
        (None, "MobileNet V1 to V4"),
        ("mobilenetv2_100d", "110d of mobilenet_v2, 120d of mobilenet_v2, 150d"),
        ("mobilenetv4_conv_small_050d", "a known depth multiplier"),
    ],
)
def test_other_names_are_refused_in_one_line(name, words):
    one_line(ValueError, lambda: timm_spec(name), "timm_name: got ", repr(name), words)


def test_a_network_of_another_depth_is_not_timms():
    spec = architectures.transforms.with_repeats(
        architectures.mobilenet_v2(dialect="timm"), (1, 2, 3, 4, 3, 3, 1), 2
    )
    one_line(weights.WeightsError, lambda: weights.to_timm(ones(spec), models.MobileNet(spec=spec)),
             "timm has no such mobilenet_v2")  # fmt: skip


def test_a_deep_network_of_another_activation_is_warned_of():
    spec = timm_spec("mobilenetv2_110d", 10)
    changed = architectures.transforms.with_activation(spec, "relu")
    with pytest.warns(UserWarning, match="different activation"):
        weights.to_timm(ones(changed), models.MobileNet(spec=changed))


@pytest.mark.parametrize("name", ["mobilenetv1_025h", "mobilenetv2_110d"])
def test_a_network_of_timms_own_is_saved_and_fused_as_any_other(name, tmp_path):
    model = models.MobileNet(spec=timm_spec(name, 3))
    variables = random_variables(model)
    models.save(tmp_path / "a.safetensors", model, variables)
    assert models.load(tmp_path / "a.safetensors").model == model
    images = random_images(np.random.default_rng(0), (64, 64))
    infer, params = models.fuse(model, variables)
    fused = compiled(infer, params, images)
    expected = compiled(lambda v, x: model.apply(v, x, train=False), variables, images)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(fused, expected, rtol=0, atol=1e-4 * scale)
