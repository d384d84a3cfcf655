"""Networks without a classifier return timm's features; what needs classes refuses them."""

import jax
import numpy as np
import pytest
from PIL import Image
from small_networks import model_and_variables, quick_jit, small_v1, small_v3, small_v4

from mnet_jax import export, models, quantization, weights
from mnet_jax.analysis import cost
from mnet_jax.export.network import Network
from mnet_jax.runs import inference

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
SPECS = {"v1": small_v1, "v3": small_v3, "v4": small_v4}


def without_classifier(name):
    """A small network without a classifier, with the variables of the network that has one."""
    model, variables = model_and_variables(SPECS[name]())
    head = dict(variables["params"].get("head", {}))
    classifier = head.pop("classifier")
    params = {**variables["params"], "head": head}
    if not head:
        del params["head"]
    features = models.MobileNet(spec=model.spec.with_classes(0))
    return model, variables, features, {**variables, "params": params}, classifier


@pytest.mark.parametrize("name", SPECS)
def test_the_classifier_of_the_features_gives_the_logits(name, tmp_path):
    model, variables, headless, kept, classifier = without_classifier(name)
    images = IMAGES
    logits = quick_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    features = quick_jit(lambda v, x: headless.apply(v, x, train=False))(kept, images)
    assert features.shape == (len(images), headless.spec.features)
    assert headless.spec.outputs == headless.spec.features
    wanted = features @ classifier["kernel"] + classifier["bias"]
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
    models.save(tmp_path / "m.safetensors", headless, kept)
    loaded = models.load(tmp_path / "m.safetensors")
    assert loaded.model.spec == headless.spec
    infer, params = models.fuse(loaded.model, loaded.variables)
    np.testing.assert_allclose(quick_jit(infer)(params, images), features, rtol=1e-3, atol=1e-3)
    shapes = jax.eval_shape(lambda k: headless.init(k, images, train=False), jax.random.key(0))
    assert jax.tree.structure(shapes) == jax.tree.structure(kept)
    layers = [row.layer.name for row in cost.count(headless.spec, 64).rows]
    assert "head/classifier" not in layers


@pytest.mark.parametrize(
    ("theirs", "factory"),
    [
        ("mobilenetv2_050", models.mobilenet_v2),  # pooled
        ("mobilenetv3_small_050", models.mobilenet_v3_small),  # after the hidden layer
    ],
)
def test_features_equal_timms(theirs, factory):
    torch = pytest.importorskip("torch", reason="timm, the oracle, runs in PyTorch")
    timm = pytest.importorskip("timm", reason="timm is the oracle")
    ours = factory(width=0.5, dialect="timm", num_classes=0)
    network = timm.create_model(theirs, num_classes=0).eval()
    with torch.no_grad():
        wanted = network(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2))).numpy()
    variables = weights.from_timm(network.state_dict(), ours)
    found = quick_jit(lambda v, x: ours.apply(v, x, train=False))(variables, IMAGES)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    whole = timm.create_model(theirs).state_dict()  # has a classifier, which is left out
    assert jax.tree.structure(weights.from_timm(whole, ours)) == jax.tree.structure(variables)
    assert set(weights.to_timm(variables, ours)) == set(network.state_dict())


def test_an_onnx_file_gives_the_features():
    pytest.importorskip("onnxruntime", reason="the extra [onnx]")
    _, _, headless, kept, _ = without_classifier("v3")
    view = models.View(resolution=32, photographs=False)
    network = Network.of(models.SavedModel(headless, kept, (), view), takes_pixels=False)
    images = IMAGES[:, :32, :32]
    checked = export.check("onnx", export.to_file("onnx", network), network, [np.asarray(images)])
    assert checked.logits.shape == (len(images), headless.spec.features)


def test_what_needs_classes_refuses(tmp_path):
    _, _, headless, kept, _ = without_classifier("v1")
    view = models.View(resolution=32, photographs=False)
    saved = models.SavedModel(headless, kept, (), view)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"^checkpoint: got .*num_classes=0 returns features$"):
        inference.classify(saved, tmp_path / "a.png", view=view)
    with pytest.raises(ValueError, match="class_names: got 1, legal: 0 or none"):
        models.save(tmp_path / "m.safetensors", headless, kept, class_names=["a"])
    rounding = headless.clone(quantization=quantization.Quantization())
    with pytest.raises(ValueError, match="num_classes: got 0, legal: 1 or more in a quantized"):
        rounding.init(jax.random.key(0), IMAGES, train=False)
    with pytest.raises(ValueError, match="num_classes: got -1"):
        models.mobilenet_v2(num_classes=-1)
