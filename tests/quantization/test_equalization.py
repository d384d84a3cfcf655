"""Folding, equalization and absorption: functions in NumPy that stay, ranges that become alike."""

import dataclasses

import by_hand
import numpy as np
import pytest
from folded_networks import by_hand_folded, flat, folded, nested, rounded_by_hand, with_params
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_networks import fits, hand_made, quantizable
from small_networks import SMALL, images_of, mixed, model_and_variables, small_v1, small_v2

from mnet_jax import architectures, quantization
from mnet_jax.architectures import walk

IMAGES = images_of(2, 32, 32, 3)
NETWORKS = {
    "mixed": mixed("relu"),
    **{name: quantization.without_relu6(make()) for name, make in SMALL.items()},
    "v2 expansion shortcuts": small_v2(shortcut="expansion", activation="relu"),
}
every_network = pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)


def logits_of(spec, variables, images=IMAGES):
    return by_hand_folded(spec, variables, images)[0]


def assert_same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def factors_for(spec, seed=0, largest=8.0):
    """Factors of every pair, 1 / largest to largest."""
    rng = np.random.default_rng(seed)
    return {
        pair.first.name: largest ** rng.uniform(-1, 1, pair.first.outputs)
        for pair in quantization.pairs(spec)
    }


@every_network
def test_folding_leaves_the_function(spec):
    _, variables = model_and_variables(spec)
    expected, _ = by_hand.network(spec, variables, IMAGES)
    found = quantization.fold(spec, variables)
    assert_same(logits_of(spec, found), expected)
    assert not [name for name in flat(found["params"]) if name.endswith("/scale")]
    for layer in walk(spec, 32):
        if layer.normalized:
            norm, statistics = (flat(t) for t in (variables["params"], found["statistics"]))
            bias, scale = (norm[f"{layer.name}/norm/{key}"] for key in ("bias", "scale"))
            np.testing.assert_array_equal(statistics[f"{layer.name}/mean"], bias)
            np.testing.assert_array_equal(statistics[f"{layer.name}/deviation"], np.abs(scale))


def test_without_relu6_leaves_all_but_the_activations():
    spec = mixed()
    changed = quantization.without_relu6(spec)
    for before, after in zip(walk(spec, 32), walk(changed, 32), strict=True):
        expected = "relu" if before.activation == "relu6" else before.activation
        assert after == dataclasses.replace(before, activation=expected)


def names_of_pairs(spec):
    return {
        pair.first.name: [follower.name for follower in pair.followers]
        for pair in quantization.pairs(spec)
    }


def test_the_pairs_of_a_network_of_every_kind():
    assert names_of_pairs(mixed("relu")) == {
        "stem": ["block_0/depthwise"],
        "block_0/depthwise": ["block_0/pointwise"],
        "block_0/pointwise": ["block_1/expand"],
        "block_1/expand": ["block_1/project"],
        # block_1/project: block 2 adds its input to its output
        "block_2/expand": ["block_2/depthwise"],
        "block_2/depthwise": ["block_2/squeeze_excite/reduce", "block_2/project"],
        "block_2/squeeze_excite/reduce": ["block_2/squeeze_excite/expand"],
        "block_3/start": ["block_3/expand"],
        "block_3/expand": ["block_3/depthwise"],
        "block_3/depthwise": ["block_3/project"],
        "block_3/project": ["block_4/expand"],
        "block_4/expand": ["block_4/depthwise"],
        # block_4/depthwise is added to block_5/expand
        "block_4/project": ["block_5/expand"],
        "block_5/depthwise": ["block_5/project"],
        "block_5/project": ["head/conv"],
        "head/conv": ["head/hidden"],
        "head/hidden": ["head/classifier"],
    }


def test_relu6_and_hard_swish_end_a_pair():
    kept = names_of_pairs(mixed())
    assert set(kept) == {
        "stem", "block_1/expand", "block_2/squeeze_excite/reduce", "block_3/start",
        "block_3/expand", "block_3/depthwise", "block_3/project", "block_4/project",
    }  # fmt: skip
    reasons = quantization.unpaired(mixed())
    assert reasons["block_2/expand"] == "got hard_swish after it, legal: linear, relu"
    assert reasons["block_2/squeeze_excite/expand"].startswith("got hard_sigmoid after it")
    shared = "got outputs to which {}'s are added, legal: outputs without a shortcut"
    assert reasons["block_2/project"] == shared.format("block_1/project")
    assert reasons["head/classifier"].startswith("got the logits")
    assert kept.keys() | reasons.keys() == {layer.name for layer in walk(mixed(), 32)}


def test_the_published_v2_has_the_pairs_of_its_paper():
    """All within blocks, and between blocks without a shortcut (arXiv 1906.04721, Fig. 4)."""
    spec = architectures.mobilenet_v2(activation="relu")
    kept = names_of_pairs(spec)
    for i, block in enumerate(spec.blocks):
        assert f"block_{i}/depthwise" in kept
        assert (f"block_{i}/expand" in kept) == block.expands
        following = spec.blocks[i + 1].shortcut if i + 1 < len(spec.blocks) else "none"
        alone = block.shortcut == following == "none"
        assert (f"block_{i}/project" in kept) == alone
    assert kept["head/conv"] == ["head/classifier"]


@every_network
def test_equalization_leaves_the_function_and_makes_ranges_alike(spec):
    _, variables = folded(spec)
    hostile = quantization.rescale(spec, variables, factors_for(spec))
    expected = logits_of(spec, variables)
    assert_same(logits_of(spec, hostile), expected)
    equalized = quantization.equalize(spec, hostile)
    assert_same(logits_of(spec, equalized), expected)
    params = flat(equalized["params"])
    for pair in quantization.pairs(spec):
        first = np.abs(params[pair.first.kernel_path])
        after = []
        for layer in pair.followers:
            kernel = np.abs(params[layer.kernel_path])
            kernel = kernel if layer.kind == "depthwise" else np.swapaxes(kernel, -1, -2)
            after.append(kernel.reshape(-1, pair.first.outputs).max(0))
        before = first.reshape(-1, pair.first.outputs).max(0)
        np.testing.assert_allclose(before, np.max(after, axis=0), rtol=0.01)


def test_rescaling_leaves_any_network():
    @settings(
        max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(spec=hand_made(most_blocks=5).map(quantizable), seed=st.integers(0, 99))
    def check(spec, seed):
        assume(fits(spec, 16))
        assume(quantization.pairs(spec))
        images = images_of(1, 16, 16, 3, seed=seed)
        _, variables = folded(spec)
        rescaled = quantization.rescale(spec, variables, factors_for(spec, seed))
        expected = logits_of(spec, variables, images)
        # Large activations may cancel in the logits.
        np.testing.assert_allclose(
            logits_of(spec, rescaled, images),
            expected,
            rtol=1e-3,
            atol=1e-3 * np.abs(expected).max(),
        )

    check()


def test_a_dead_channel_is_left_alone_but_for_a_range_above_all_others():
    spec = NETWORKS["v1"]
    _, variables = folded(spec)
    params = flat(variables["params"])
    stem, depthwise, pointwise = (
        np.array(params[f"{name}/conv/kernel"])
        for name in ("stem", "block_0/depthwise", "block_0/pointwise")
    )
    stem[..., 1] = stem[..., 2] = 0
    depthwise[..., 1] *= 0.01
    depthwise[..., 3] *= 1000  # nothing reads it
    pointwise[3] = 0
    changed = {
        "stem/conv/kernel": stem,
        "block_0/depthwise/conv/kernel": depthwise,
        "block_0/pointwise/conv/kernel": pointwise,
    }
    variables = with_params(variables, changed)
    expected = logits_of(spec, variables)
    factors = quantization.equalizing_factors(spec, variables)
    assert np.all(np.isfinite(np.concatenate(list(factors.values()))))
    assert factors["stem"][1] == 1
    equalized = quantization.equalize(spec, variables)
    assert_same(logits_of(spec, equalized), expected)
    ranges = np.abs(flat(equalized["params"])["block_0/depthwise/conv/kernel"]).max((0, 1))
    assert ranges[3] <= np.delete(ranges, 3).max() * (1 + 1e-5)


def test_a_network_without_pairs_is_refused_with_its_first_layer():
    spec = small_v1()
    _, variables = folded(spec)
    message = "^stem: got relu6 after it, legal: linear, relu; see without_relu6$"
    with pytest.raises(ValueError, match=message):
        quantization.equalize(spec, variables)
    with pytest.raises(ValueError, match=r"^block_0/depthwise: got relu6 after it, legal: "):
        quantization.rescale(spec, variables, {"block_0/depthwise": np.ones(8)})


def noise(spec, variables, expected, **how):
    """The energy of the error of rounded kernels in the logits, as a share of theirs."""
    error = logits_of(spec, rounded_by_hand(spec, variables, 8, **how)) - expected
    return (error**2).mean() / expected.var()


def test_equalization_mends_what_a_rescaling_of_channels_breaks():
    spec = NETWORKS["mixed"]
    _, variables = folded(spec)
    expected = logits_of(spec, variables)
    hostile = quantization.rescale(spec, variables, factors_for(spec, largest=100.0))
    healthy = noise(spec, variables, expected)
    assert noise(spec, hostile, expected) > 0.3 > 30 * healthy
    assert noise(spec, quantization.equalize(spec, hostile), expected) < 2 * healthy


def statistics_of_absorption(spec, variables, images):
    """Variables whose `filtered` tensors are mostly above zero, and statistics that say where."""
    params, statistics = flat(variables["params"]), flat(variables["statistics"])
    for name in [n for n in params if n.endswith("/depthwise/norm/bias")]:
        params[name] = params[name] + np.float32(30)
    _, named = by_hand_folded(spec, {"params": nested(params)}, images)
    for i in range(len(spec.blocks)):
        least = named[f"block_{i}"]["filtered"].min((0, 1, 2))
        assert np.mean(least > 0) > 0.5  # there ReLU changes nothing
        name = f"block_{i}/depthwise"
        statistics[f"{name}/deviation"] = np.full_like(least, 0.25, np.float32)
        statistics[f"{name}/mean"] = (least + 0.75).astype(np.float32)  # 3 deviations
    return {"params": nested(params), "statistics": nested(statistics)}


def test_absorption_leaves_the_function_where_relu_changes_nothing():
    spec = NETWORKS["v1"]
    _, variables = folded(spec)
    variables = statistics_of_absorption(spec, variables, IMAGES)
    absorbed = quantization.absorb_high_biases(spec, variables)
    expected, named = by_hand_folded(spec, variables, IMAGES)
    assert_same(logits_of(spec, absorbed), expected)
    _, after = by_hand_folded(spec, absorbed, IMAGES)
    for i in range(len(spec.blocks)):
        before = named[f"block_{i}"]["filtered"]
        np.testing.assert_allclose(
            after[f"block_{i}"]["filtered"], before - before.min((0, 1, 2)), rtol=0,
            atol=1e-3 * before.max(),
        )  # fmt: skip
    left = flat(absorbed["statistics"])["block_0/depthwise/mean"]
    np.testing.assert_allclose(left, 0.75, atol=1e-4)


def test_absorption_into_a_window_is_exact_but_for_the_border():
    spec = architectures.NetworkSpec(
        name="one window", width=1.0, dialect=small_v1().dialect,
        stem=architectures.ConvNorm(inputs=3, outputs=4, kernel=1, activation="relu"),
        blocks=(architectures.Separable(inputs=4, outputs=5, activation="relu"),),
        head=architectures.Head(conv=None, dropout=0.0, num_classes=2),
    )  # fmt: skip
    _, variables = folded(spec)
    bias = variables["params"]["stem"]["norm"]["bias"]
    statistics = flat(variables["statistics"])
    statistics |= {"stem/mean": np.float32([0.1, 2, 3, 4]), "stem/deviation": np.full(4, 0.1)}
    raised = {"stem/norm/bias": bias + 20, "block_0/depthwise/norm/bias": np.full(4, 50.0)}
    variables = with_params({**variables, "statistics": nested(statistics)}, raised)
    absorbed = quantization.absorb_high_biases(spec, variables)
    kept = flat(absorbed["params"])["stem/norm/bias"]
    np.testing.assert_array_equal(kept, bias + 20)
    absorbed = quantization.absorb_high_biases(spec, variables, through_padding=True)
    moved = bias + 20 - flat(absorbed["params"])["stem/norm/bias"]
    np.testing.assert_allclose(moved, [0, 1.7, 2.7, 3.7], atol=1e-4)
    before, after = (by_hand_folded(spec, v, IMAGES)[1] for v in (variables, absorbed))
    before, after = (named["block_0_output"] for named in (before, after))
    assert_same(after[:, 1:-1, 1:-1], before[:, 1:-1, 1:-1])
    assert np.abs(after - before)[:, 0].max() > 0.1


def test_absorption_needs_statistics():
    spec = NETWORKS["v1"]
    _, variables = folded(spec)
    with pytest.raises(ValueError, match="variables: got 'no statistics', legal: variables from"):
        quantization.absorb_high_biases(spec, {"params": variables["params"]})
