"""Networks for images of other than three channels, with weights for RGB images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import model_and_variables, quick_jit, small_v1, small_v3
from tiny_network import make_tiny_spec

from mnet_jax import models, weights
from mnet_jax.config import RunConfig

RNG = np.random.default_rng(0)
GRAY = RNG.uniform(-1, 1, (2, 48, 48, 1)).astype(np.float32)


def logits(model, variables, images):
    return quick_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_equal_channels_give_the_logits_of_gray_rgb(channels):
    """A gray image has no factor: its kernel is the sum, as over three equal channels.

    With 4 channels the kernel of red counts twice, so only multiples of 3 agree with RGB exactly.
    """
    model, variables = model_and_variables(make_tiny_spec())
    adapted, values = models.with_in_channels(model, variables, channels)
    assert adapted.spec.stem.inputs == channels
    shapes = jax.eval_shape(
        lambda k: adapted.init(k, jnp.zeros((1, 48, 48, channels)), train=False), jax.random.key(0)
    )
    assert jax.tree.map(jnp.shape, values) == jax.tree.map(jnp.shape, shapes)
    found = logits(adapted, values, np.repeat(GRAY, channels, axis=-1))
    if channels != 4:
        wanted = logits(model, variables, np.repeat(GRAY, 3, axis=-1))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    same = models.with_in_channels(model, variables, 3)
    assert same[0] == model and same[1]["params"] is variables["params"]


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_kernels_equal_timms(channels):
    torch = pytest.importorskip("torch", reason="timm, the oracle, runs in PyTorch")
    manipulate = pytest.importorskip("timm.models._manipulate", reason="timm is the oracle")
    model, variables = model_and_variables(small_v1())
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    theirs = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
    wanted = manipulate.adapt_input_conv(channels, theirs).numpy().transpose(2, 3, 1, 0)
    _, values = models.with_in_channels(model, variables, channels)
    np.testing.assert_allclose(values["params"]["stem"]["conv"]["kernel"], wanted, rtol=1e-6)


def test_converted_weights_are_adapted_or_taken_as_they_are():
    rgb = models.mobilenet_v1(width=0.25, dialect="timm")
    _, variables = model_and_variables(rgb.spec)
    state = weights.to_timm(variables, rgb)
    gray = models.mobilenet_v1(width=0.25, dialect="timm", in_channels=1)
    found = weights.from_timm(state, gray)
    wanted = models.with_in_channels(rgb, variables, 1)[1]
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    again = weights.from_timm(weights.to_timm(found, gray), gray)  # has one channel already
    jax.tree.map(np.testing.assert_array_equal, again, wanted)


def test_a_saved_model_keeps_its_channels_and_has_no_view(tmp_path):
    model, variables = model_and_variables(small_v3())
    model, variables = models.with_in_channels(model, variables, 4)
    models.save(tmp_path / "m.safetensors", model, variables)
    assert models.load(tmp_path / "m.safetensors").model.spec.stem.inputs == 4
    assert "x4" in model.summary(64)
    view = models.View(resolution=32, photographs=False)
    with pytest.raises(ValueError, match=r"view: .*legal: None for images of 4 channels"):
        models.save(tmp_path / "m.safetensors", model, variables, view=view)


def test_what_takes_rgb_images_refuses():
    spec = make_tiny_spec().with_inputs(4)
    with pytest.raises(ValueError, match="in_channels: got 4, legal: 3"):
        RunConfig(spec=spec)
    model, variables = model_and_variables(spec)
    with pytest.raises(ValueError, match=r"images: got .*legal: \[b, h, w, 4\]"):
        model.apply(variables, np.zeros((1, 32, 32, 3)), train=False)
    with pytest.raises(ValueError, match="model: got '4 input channels', legal: 3"):
        models.with_in_channels(model, variables, 1)
    with pytest.raises(ValueError, match="in_channels: got 0"):
        models.with_in_channels(model.clone(spec=make_tiny_spec()), variables, 0)
