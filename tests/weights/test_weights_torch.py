"""Weights of torchvision and timm: the same logits and activations, and back without a change."""

import argparse
from functools import partial

import jax
import numpy as np
import pytest
from real_weights import real_weights
from weights_parity import (
    assert_computes_the_same,
    assert_equal_trees,
    assert_same_logits,
    in_every_way,
    random_images,
    random_kernel,
    random_vector,
)

from mnet_jax import models, weights

torch = pytest.importorskip("torch", reason="PyTorch, the extra [torch], is the oracle")
torch.set_num_threads(1)  # of small images, where several only wait for each other


def randomize(module, network, rng):
    """Random weights, biases, scales and running statistics everywhere."""
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
            shape = tuple(part.weight.shape)
            kernel = random_kernel(rng, network, shape, np.prod(shape[1:]))
            part.weight.data = torch.from_numpy(kernel)
            if part.bias is not None:
                part.bias.data = torch.from_numpy(random_vector(rng, "bias", shape[0]))
        elif isinstance(part, torch.nn.BatchNorm2d):
            channels = part.num_features
            part.weight.data = torch.from_numpy(random_vector(rng, "scale", channels))
            part.bias.data = torch.from_numpy(random_vector(rng, "bias", channels))
            part.running_mean.data = torch.from_numpy(random_vector(rng, "mean", channels))
            part.running_var.data = torch.from_numpy(random_vector(rng, "var", channels))
            part.num_batches_tracked.fill_(7)
        elif type(part).__name__ == "LayerScale2d":
            gamma = random_vector(rng, "layer_scale", len(part.gamma))
            part.gamma.data = torch.from_numpy(gamma)


def assert_normalizes_as(dialect, module):
    """PyTorch's momentum is the share of the new statistics, ours that of the old ones."""
    norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    constants = {(norm.eps, round(1 - norm.momentum, 6)) for norm in norms}
    assert constants == {(dialect.norm_epsilon, dialect.norm_momentum)}


def outputs_of(module, watched, images):
    """Logits, and the outputs, NHWC, of submodules, by the names that `watched` gives them."""
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            seen[name] = output.detach().clone().permute(0, 2, 3, 1).numpy()

        return hook

    handles = [part.register_forward_hook(keep(name)) for name, part in watched.items()]
    with torch.no_grad():
        logits = module.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    for handle in handles:
        handle.remove()
    return logits, seen


def assert_there_and_back(state, convert_in, convert_out, model, module):
    """Our variables, and the library's state dict, are the same after a round trip."""
    variables = convert_in(state, model)
    back = convert_out(variables, model)
    assert list(back) == list(state)
    for name, array in back.items():
        if name.endswith("num_batches_tracked"):
            assert array.dtype == np.int64 and array == 0
        else:
            np.testing.assert_array_equal(array, state[name])
    assert_equal_trees(convert_in(back, model), variables)
    module.load_state_dict({name: torch.from_numpy(a) for name, a in back.items()}, strict=True)
    return variables


TORCHVISION = [
    ("mobilenet_v2", 0.35, (97, 64)),
    ("mobilenet_v3_large", 0.75, (65, 64)),
    ("mobilenet_v3_small", 1.0, (97, 64)),
    pytest.param("mobilenet_v2", 1.0, (64, 65), marks=pytest.mark.exhaustive),
    pytest.param("mobilenet_v3_large", 1.0, (64, 65), marks=pytest.mark.exhaustive),
    pytest.param("mobilenet_v3_small", 0.75, (64, 65), marks=pytest.mark.exhaustive),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width", "size"), TORCHVISION)
def test_torchvision(name, width, size):
    """Odd rows or columns and even others: the two sides of the padding differ there."""
    zoo = pytest.importorskip("torchvision", reason="torchvision is the oracle").models
    rng = np.random.default_rng(0)
    if name == "mobilenet_v2":
        module = zoo.mobilenet_v2(num_classes=10, width_mult=width)
    else:  # the public function fixes the width
        rows, last = zoo.mobilenetv3._mobilenet_v3_conf(name, width_mult=width)
        module = zoo.MobileNetV3(rows, last, num_classes=10)
    randomize(module, name, rng)
    model = getattr(models, name)(width=width, num_classes=10, dialect="torchvision")
    assert_normalizes_as(model.spec.dialect, module)

    state = module.state_dict()
    variables = assert_there_and_back(
        state, weights.from_torchvision, weights.to_torchvision, model, module
    )
    names = ["stem_output", *(f"block_{i}_output" for i in range(len(model.spec.blocks)))]
    watched = dict(zip([*names, "head/conv_output"], module.features, strict=True))
    images = random_images(rng, size)
    assert_computes_the_same(model, variables, images, *outputs_of(module, watched, images))


TIMM = [
    ("mobilenetv1_125", "mobilenet_v1", {"width": 1.25}, (65, 64)),
    ("mobilenetv2_050", "mobilenet_v2", {"width": 0.5}, (64, 65)),
    ("mobilenetv3_large_075", "mobilenet_v3_large", {"width": 0.75}, (65, 64)),
    ("tf_mobilenetv3_small_100", "mobilenet_v3_small", {}, (97, 64)),
    ("tf_mobilenetv3_large_minimal_100", "mobilenet_v3_large", {"minimalistic": True}, (65, 64)),
    ("mobilenetv4_conv_small_050", "mobilenet_v4_conv_small", {"width": 0.5}, (97, 64)),
    ("mobilenetv4_conv_medium", "mobilenet_v4_conv_medium", {}, (65, 64)),
    ("mobilenetv4_conv_large", "mobilenet_v4_conv_large", {}, (64, 65)),
    ("mobilenetv4_hybrid_medium_075", "mobilenet_v4_hybrid_medium", {"width": 0.75}, (65, 96)),
    ("mobilenetv4_hybrid_medium", "mobilenet_v4_hybrid_medium", {}, (64, 64)),
    ("mobilenetv4_hybrid_large_075", "mobilenet_v4_hybrid_large", {"width": 0.75}, (97, 64)),
]
MORE_OF_TIMM = [
    ("mobilenetv1_100", "mobilenet_v1", {}, (64, 65)),
    ("mobilenetv2_100", "mobilenet_v2", {}, (97, 64)),
    ("mobilenetv3_large_100", "mobilenet_v3_large", {}, (64, 65)),
    ("mobilenetv3_small_100", "mobilenet_v3_small", {}, (97, 64)),
    ("mobilenetv3_small_075", "mobilenet_v3_small", {"width": 0.75}, (64, 65)),
    ("tf_mobilenetv3_large_075", "mobilenet_v3_large", {"width": 0.75}, (64, 65)),
    ("tf_mobilenetv3_small_minimal_100", "mobilenet_v3_small", {"minimalistic": True}, (64, 65)),
    ("mobilenetv4_conv_small", "mobilenet_v4_conv_small", {}, (64, 65)),
    ("mobilenetv4_hybrid_large", "mobilenet_v4_hybrid_large", {}, (64, 65)),
]
TIMM_CASES = [
    *(pytest.param(*row, id=row[0]) for row in TIMM),
    *(pytest.param(*row, id=row[0], marks=pytest.mark.exhaustive) for row in MORE_OF_TIMM),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "network", "options", "size"), TIMM_CASES)
def test_timm(name, network, options, size):
    """Odd rows or columns and even others: the two sides of the padding differ there."""
    timm = pytest.importorskip("timm", reason="timm is the oracle")
    rng = np.random.default_rng(0)
    module = timm.create_model(name, num_classes=10)
    randomize(module, network, rng)
    dialect = "slim" if name.startswith("tf_") else "timm"
    model = getattr(models, network)(num_classes=10, dialect=dialect, **options)
    if dialect == "timm":  # momentum is the trainer's there, and set for nobody in the tf_ models
        assert_normalizes_as(model.spec.dialect, module)

    variables = assert_there_and_back(
        module.state_dict(), weights.from_timm, weights.to_timm, model, module
    )
    blocks = [block for stage in module.blocks for block in stage]
    names = [f"block_{i}_output" for i in range(len(model.spec.blocks))]
    if len(blocks) > len(names):  # from V3 on the last convolution is a stage of its own
        names.append("head/conv_output")
    watched = {"stem_output": module.bn1} | dict(zip(names, blocks, strict=True))
    images = random_images(rng, size)
    assert_computes_the_same(model, variables, images, *outputs_of(module, watched, images))


ONE_OF_EACH = {
    "mobilenet_v2": ("torchvision", "mobilenet_v2"),
    "mobilenet_v3_small": ("torchvision", "mobilenet_v3_small"),
    "mobilenetv1_100": ("timm", "mobilenet_v1"),
    "mobilenetv4_conv_small": ("timm", "mobilenet_v4_conv_small"),
}
WAYS = {  # Keras' tests have three others, and the tests above float32 in the lowering `auto`
    "mobilenet_v2": ("auto", "bfloat16"),
    "mobilenet_v3_small": ("shifted", "float32"),
    "mobilenetv1_100": ("native", "bfloat16"),
    "mobilenetv4_conv_small": ("grouped", "float32"),
}


@pytest.fixture(scope="module")
def converted(request):
    """A model, variables and images, and the logits that the library gives."""
    name = request.param
    library, network = ONE_OF_EACH[name]
    zoo = pytest.importorskip(library, reason=f"{library} is the oracle")
    build = (
        getattr(zoo.models, name) if library == "torchvision" else partial(zoo.create_model, name)
    )
    module = build(num_classes=10)
    rng = np.random.default_rng(0)
    randomize(module, network, rng)
    model = getattr(models, network)(num_classes=10, dialect=library)
    variables = getattr(weights, f"from_{library}")(module.state_dict(), model)
    images = random_images(rng, (64, 65))
    logits, _ = outputs_of(module, {}, images)
    return model, variables, images, logits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("converted", "lowering", "precision"), in_every_way(WAYS), indirect=["converted"]
)
def test_logits_equal_the_librarys_in_every_lowering_and_precision(converted, lowering, precision):
    assert_same_logits(*converted, lowering, precision)


def test_a_converted_array_does_not_share_the_tensors_memory():
    model = models.mobilenet_v2(width=0.35, num_classes=10, dialect="torchvision")
    zoo = pytest.importorskip("torchvision", reason="torchvision is the oracle").models
    module = zoo.mobilenet_v2(num_classes=10, width_mult=0.35)
    variables = weights.from_torchvision(module.state_dict(), model)
    before = jax.tree.map(np.array, variables)
    for tensor in module.state_dict().values():
        tensor.fill_(3)
    assert_equal_trees(variables, before)


class Wrapped(torch.nn.Module):
    """A module whose parameters have the prefix `module.`, as in DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module


@pytest.fixture(scope="module")
def trained():
    """A timm model, its moving average, and an optimizer that has taken a step."""
    timm = pytest.importorskip("timm", reason="timm writes the checkpoints")
    module = timm.create_model("mobilenetv2_050", num_classes=10)
    randomize(module, "mobilenet_v2", np.random.default_rng(0))
    average = timm.utils.ModelEmaV2(module, decay=0.9)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    average.update(module)
    return module, average, optimizer


ARGUMENTS = argparse.Namespace(
    model="mobilenetv2_050", lr=0.01, decay_epochs=[1, 2], mean=None, amp=False, opt_kwargs={}
)


@pytest.mark.parametrize("has_average", [True, False])
def test_checkpoints_of_timms_saver(trained, tmp_path, has_average):
    timm = pytest.importorskip("timm", reason="timm writes the checkpoints")
    module, average, optimizer = trained
    saver = timm.utils.CheckpointSaver(
        module, optimizer, ARGUMENTS, average if has_average else None,
        checkpoint_dir=str(tmp_path),
    )  # fmt: skip
    saver.save_checkpoint(0, metric=71.5)
    written = next(tmp_path.glob("checkpoint-0.pth.tar"))
    model = models.mobilenet_v2(width=0.5, num_classes=10, dialect="timm")
    theirs = timm.models.load_state_dict(str(written), weights_only=False)
    chosen = average.module if has_average else module
    assert all(torch.equal(theirs[name], value) for name, value in chosen.state_dict().items())
    found = weights.from_timm(weights.read(written, model), model)
    assert_equal_trees(found, weights.from_timm(theirs, model))


def test_checkpoints_of_torchvisions_references(tmp_path):
    """As references/classification/train.py saves them, with the average that its utils keep."""
    zoo = pytest.importorskip("torchvision", reason="torchvision is the oracle").models
    module = zoo.mobilenet_v2(num_classes=10, width_mult=0.35)
    randomize(module, "mobilenet_v2", np.random.default_rng(0))
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    average = torch.optim.swa_utils.AveragedModel(module)
    checkpoint = {
        "model": Wrapped(torch.compile(module)).state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3).state_dict(),
        "epoch": 3,
        "args": ARGUMENTS,
    }
    torch.save(checkpoint, tmp_path / "model_3.pth")
    model = models.mobilenet_v2(width=0.35, num_classes=10, dialect="torchvision")
    expected = weights.from_torchvision(module.state_dict(), model)
    found = weights.from_torchvision(weights.read(tmp_path / "model_3.pth"), model)
    assert_equal_trees(found, expected)

    checkpoint["model_ema"] = average.state_dict()
    assert "n_averaged" in checkpoint["model_ema"]
    torch.save(checkpoint, tmp_path / "model_3.pth", _use_new_zipfile_serialization=False)
    found = weights.from_torchvision(weights.read(tmp_path / "model_3.pth", model), model)
    assert_equal_trees(found, expected)


class Evil:
    """A class of somebody's own."""


@pytest.mark.parametrize("where", ["in the namespace", "beside it", "in its place"])
def test_no_other_class_is_allowed_beside_the_weights(tmp_path, where):
    arguments = argparse.Namespace(evil=Evil()) if where == "in the namespace" else Evil()
    content = {"a": torch.zeros(1), "args": arguments, "more": argparse.Namespace()}
    path = tmp_path / "a.pth"
    torch.save(arguments if where == "in its place" else content, path)
    with pytest.raises(weights.WeightsError, match=r"something else \(\w+\.Evil\) than tensors"):
        weights.read(path)
    torch.save({"a": argparse.Namespace()}, path)
    with pytest.raises(weights.WeightsError, match="a: got Namespace, legal: an array"):
        weights.read(path)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.weights
def test_logits_of_torchvisions_trained_v2_are_torchvisions():
    torchvision = pytest.importorskip("torchvision", reason="torchvision is the oracle")
    path = real_weights("mobilenet_v2-b0353104.pth")
    theirs = torchvision.models.mobilenet_v2()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    model = models.mobilenet_v2(dialect="torchvision")
    variables = weights.from_torchvision(weights.read(path, model), model)
    images = random_images(np.random.default_rng(0), (224, 224))
    logits, _ = outputs_of(theirs, {}, images)
    assert_computes_the_same(model, variables, images, logits, {})
