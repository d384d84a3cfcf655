"""Networks for segmentation give torchvision's scores with its weights."""

import jax
import numpy as np
import pytest
from messages import one_line
from small_networks import images_of, quick_jit

from mnet_jax import architectures, models, weights
from mnet_jax.architectures.segmentation import PAPER_POOL
from mnet_jax.weights import WeightsError

torch = pytest.importorskip("torch", reason="the oracle is torchvision, which needs torch")
torchvision = pytest.importorskip("torchvision", reason="torchvision is the oracle")
NETWORKS = {
    "lraspp_mobilenet_v3_large": architectures.lraspp,
    "deeplabv3_mobilenet_v3_large": architectures.deeplabv3,
}
networks = pytest.mark.parametrize("name", NETWORKS)


def network_of(name, **options):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, weights_backbone=None, **options)
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.momentum = 1.0  # the statistics become those of the next batch
        # Without these statistics the images' signal fades on its way through the layers.
        theirs.train()(torch.rand(8, 3, 65, 83) * 2 - 1 + torch.randn(8, 3, 1, 1))
    return theirs.eval()


def model_of(name, *, dialect="torchvision", lowering="grouped", **options):
    network = architectures.mobilenet_v3("large", dialect=dialect)
    return models.Segmenter(spec=NETWORKS[name](network, **options), lowering=lowering)


def scores_of(theirs, images):
    with torch.no_grad():
        out = theirs(torch.tensor(images.transpose(0, 3, 1, 2)))["out"]
    return out.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("size", [(65, 83), pytest.param((64, 96), marks=pytest.mark.slow)])
@networks
def test_scores_are_torchvisions(name, size):
    theirs = network_of(name, num_classes=7)
    model = model_of(name, num_classes=7)
    variables = weights.from_torchvision_segmentation(theirs.state_dict(), model)
    images = np.asarray(images_of(2, *size, 3))
    expected = scores_of(theirs, images)
    found = quick_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    assert found.shape == expected.shape == (2, *size, 7)
    assert np.abs(expected[0] - expected[1]).max() > 0.1  # the scores depend on the images
    np.testing.assert_allclose(found, expected, atol=1e-4)


@networks
def test_every_array_of_torchvision_has_its_place(name):
    """By shapes alone, with the 21 classes of the published weights, auxiliary head or not."""
    auxiliary = {"aux_loss": True} if name.startswith("deeplabv3") else {}
    theirs = network_of(name, **auxiliary)
    model = model_of(name)
    variables = weights.from_torchvision_segmentation(theirs.state_dict(), model)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    wanted = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda x: x.shape, wanted)
    back = weights.to_torchvision_segmentation(variables, model)
    theirs_only = {key: x for key, x in theirs.state_dict().items() if "aux_" not in key}
    assert back.keys() == theirs_only.keys()
    for key, x in theirs_only.items():
        np.testing.assert_array_equal(back[key], 0 if key.endswith("_tracked") else x)
    count = sum(p.numel() for n, p in theirs.named_parameters() if not n.startswith("aux_"))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize(
    "options", [{"dialect": "paper"}, {"output_stride": 8}, {"pool": PAPER_POOL}]
)
def test_a_model_that_computes_something_else_is_a_warning(options):
    name = "lraspp_mobilenet_v3_large"
    state = network_of(name).state_dict()
    with pytest.warns(UserWarning, match="does not compute what torchvision's does"):
        weights.from_torchvision_segmentation(state, model_of(name, **options))


def test_what_does_not_fit_is_one_line():
    name = "lraspp_mobilenet_v3_large"
    state = network_of(name).state_dict()

    def convert(state, model):
        return lambda: weights.from_torchvision_segmentation(state, model)

    words = ("does not fit mobilenet_v3_large with LRASPP", "classifier.low_classifier.weight")
    one_line(WeightsError, convert(state, model_of(name, num_classes=2)), *words)
    missing = {key: array for key, array in state.items() if "scale" not in key}
    one_line(WeightsError, convert(missing, model_of(name)), "missing", "classifier.scale.1.weight")
    other = models.Segmenter(spec=architectures.lraspp(architectures.mobilenet_v2()))
    one_line(WeightsError, convert(state, other), "torchvision has no mobilenet_v2 here")
    one_line(WeightsError, convert(state, models.mobilenet_v3_large()), "legal: a Segmenter")
