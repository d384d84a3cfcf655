"""MobileNet V4 is its paper's (arXiv 2404.10518): the tables of appendix D, the printed counts."""

import pytest
from published import V4HL, V4HM, V4L, V4M, V4S, spec_of

from mnet_jax.analysis import cost
from mnet_jax.architectures import walk
from mnet_jax.architectures.spec import Attention, ConvNorm, FusedInvertedResidual

# V4, appendix D: input size, channels in, block, DW K1, DW K2, expanded, output, stride. A fused
# block has one full kernel; in Conv-S, whose expansion is the fused layer's own width, it is the
# plain pair of a 3x3 and a 1x1 convolution.
V4_SMALL_TABLE = [
    (112, 32, "FusedIB", 0, 3, 32, 32, 2),
    (56, 32, "FusedIB", 0, 3, 96, 64, 2),
    (28, 64, "ExtraDW", 5, 5, 192, 96, 2),
    *[(14, 96, "IB", 0, 3, 192, 96, 1)] * 4,
    (14, 96, "ConvNext", 3, 0, 384, 96, 1),
    (14, 96, "ExtraDW", 3, 3, 576, 128, 2),
    (7, 128, "ExtraDW", 5, 5, 512, 128, 1),
    (7, 128, "IB", 0, 5, 512, 128, 1),
    (7, 128, "IB", 0, 5, 384, 128, 1),
    *[(7, 128, "IB", 0, 3, 512, 128, 1)] * 2,
]

V4_MEDIUM_TABLE = [
    (128, 32, "FusedIB", 0, 3, 128, 48, 2),
    (64, 48, "ExtraDW", 3, 5, 192, 80, 2),
    (32, 80, "ExtraDW", 3, 3, 160, 80, 1),
    (32, 80, "ExtraDW", 3, 5, 480, 160, 2),
    *[(16, 160, "ExtraDW", 3, 3, 640, 160, 1)] * 2,
    (16, 160, "ExtraDW", 3, 5, 640, 160, 1),
    (16, 160, "ExtraDW", 3, 3, 640, 160, 1),
    (16, 160, "ConvNext", 3, 0, 640, 160, 1),
    (16, 160, "FFN", 0, 0, 320, 160, 1),
    (16, 160, "ConvNext", 3, 0, 640, 160, 1),
    (16, 160, "ExtraDW", 5, 5, 960, 256, 2),
    (8, 256, "ExtraDW", 5, 5, 1024, 256, 1),
    *[(8, 256, "ExtraDW", 3, 5, 1024, 256, 1)] * 2,
    (8, 256, "FFN", 0, 0, 1024, 256, 1),
    (8, 256, "ConvNext", 3, 0, 1024, 256, 1),
    (8, 256, "ExtraDW", 3, 5, 512, 256, 1),
    (8, 256, "ExtraDW", 5, 5, 1024, 256, 1),
    *[(8, 256, "FFN", 0, 0, 1024, 256, 1)] * 2,
    (8, 256, "ConvNext", 5, 0, 512, 256, 1),
]

V4_LARGE_TABLE = [
    (192, 24, "FusedIB", 0, 3, 96, 48, 2),
    (96, 48, "ExtraDW", 3, 5, 192, 96, 2),
    (48, 96, "ExtraDW", 3, 3, 384, 96, 1),
    (48, 96, "ExtraDW", 3, 5, 384, 192, 2),
    *[(24, 192, "ExtraDW", 3, 3, 768, 192, 1)] * 3,
    (24, 192, "ExtraDW", 3, 5, 768, 192, 1),
    *[(24, 192, "ExtraDW", 5, 3, 768, 192, 1)] * 5,
    (24, 192, "ConvNext", 3, 0, 768, 192, 1),
    (24, 192, "ExtraDW", 5, 5, 768, 512, 2),
    *[(12, 512, "ExtraDW", 5, 5, 2048, 512, 1)] * 3,
    (12, 512, "ConvNext", 5, 0, 2048, 512, 1),
    (12, 512, "ExtraDW", 5, 3, 2048, 512, 1),
    *[(12, 512, "ConvNext", 5, 0, 2048, 512, 1)] * 2,
    (12, 512, "ExtraDW", 5, 3, 2048, 512, 1),
    (12, 512, "ExtraDW", 5, 5, 2048, 512, 1),
    *[(12, 512, "ConvNext", 5, 0, 2048, 512, 1)] * 3,
]

V4_BLOCKS = {"ExtraDW": (True, True), "IB": (False, True), "ConvNext": (True, False)}

V4_BLOCKS["FFN"] = (False, False)  # whether the first and the second depthwise kernel are there


def v4_rows(spec, resolution):
    """Our network in the columns of the paper's tables."""
    layers = {layer.name: layer for layer in walk(spec, resolution)}
    blocks = list(enumerate(spec.blocks))
    while blocks:
        i, block = blocks.pop(0)
        name = f"block_{i}"
        assert block.activation == "relu"
        if isinstance(block, ConvNorm):
            _, narrow = blocks.pop(0)
            assert isinstance(narrow, ConvNorm) and (narrow.kernel, narrow.stride) == (1, 1)
            sizes = (block.outputs, narrow.outputs, block.stride)
            yield (layers[name].input_size[0], block.inputs, "FusedIB", 0, block.kernel, *sizes)
            continue
        sizes = (block.expanded, block.outputs, block.stride)
        if isinstance(block, FusedInvertedResidual):
            expand = layers[f"{name}/expand"]
            assert expand.kind == "conv" and block.bottleneck == "linear"
            yield (expand.input_size[0], block.inputs, "FusedIB", 0, expand.kernel, *sizes)
            continue
        start, inner = (layers.get(f"{name}/{part}") for part in ("start", "depthwise"))
        kind = next(k for k, there in V4_BLOCKS.items() if there == (bool(start), bool(inner)))
        first = start or layers[f"{name}/expand"]
        kernels = (start.kernel if start else 0, inner.kernel if inner else 0)
        # Where both are there the second one strides.
        assert not (start and inner) or start.stride == 1
        assert [layer.stride for layer in (inner, start) if layer][:1] in ([block.stride], [])
        yield (first.input_size[0], block.inputs, kind, *kernels, *sizes)


@pytest.mark.parametrize(
    ("network", "table", "resolution", "stem"),
    [
        (V4S, V4_SMALL_TABLE, 224, 32),
        (V4M, V4_MEDIUM_TABLE, 256, 32),
        (V4L, V4_LARGE_TABLE, 384, 24),
    ],
)
def test_v4_is_its_table_row_by_row(network, table, resolution, stem):
    spec = spec_of(network, {})
    assert list(v4_rows(spec, resolution)) == table
    layers = {layer.name: layer for layer in walk(spec, resolution)}
    first, last = layers["stem"], layers["head/conv"]
    assert (first.kernel, first.stride, first.outputs) == (3, 2, stem)
    assert (last.kernel, last.inputs, last.outputs) == (1, table[-1][6], 960)
    assert last.output_size == (resolution // 32,) * 2
    hidden, classifier = layers["head/hidden"], layers["head/classifier"]
    assert (hidden.inputs, hidden.outputs, hidden.normalized) == (960, 1280, True)
    assert (classifier.inputs, classifier.outputs) == (1280, 1000)
    assert {spec.stem.activation, spec.head.conv.activation} == {"relu"}


def test_v4s_printed_parameters_are_5_percent_below_the_tables_and_the_released_models():
    """M and L alike, so no one layer is missing."""
    for network, published in ((V4M, 9.2e6), (V4L, 31e6)):
        counted = cost.count(spec_of(network, {}), 256).params
        assert 1.045 < counted / published < 1.06


@pytest.mark.parametrize(
    ("network", "attention"),
    [(V4HM, [(4, 64, 2, 16)] * 4 + [(4, 64, 1, 8)] * 4),
     (V4HL, [(8, 48, 2, 24)] * 4 + [(8, 64, 1, 12)] * 4)],
)  # fmt: skip
def test_attention_is_in_the_last_two_stages(network, attention):
    """Heads, their channels, the stride of keys and values, and the side of the map."""
    spec = spec_of(network, {})
    blocks = {f"block_{i}": b for i, b in enumerate(spec.blocks) if isinstance(b, Attention)}
    resolution = 256 if network == V4HM else 384
    sides = [layer.output_size[0] for layer in walk(spec, resolution) if layer.role == "attend"]
    found = [(b.heads, b.head_channels, b.downsampling) for b in blocks.values()]
    assert [(*own, side) for own, side in zip(found, sides, strict=True)] == attention
    assert {block.kind for block in blocks.values()} == {"mqa"}
    scaled = [b for b in spec.blocks if not isinstance(b, FusedInvertedResidual)]
    assert all(block.layer_scale for block in scaled)


@pytest.mark.parametrize(
    ("name", "network", "options", "size"),
    [
        ("mobilenetv4_hybrid_medium", V4HM, {}, (256, 256)),
        ("mobilenetv4_hybrid_medium_075", V4HM, {"width": 0.75, "dialect": "timm"}, (97, 224)),
        ("mobilenetv4_hybrid_large", V4HL, {}, (384, 384)),
        ("mobilenetv4_hybrid_large_075", V4HL, {"width": 0.75, "dialect": "timm"}, (65, 160)),
    ],
)
def test_multiply_adds_of_hybrids_are_those_that_pytorch_counts(name, network, options, size):
    timm = pytest.importorskip("timm", reason="timm's network is the oracle")
    torch = pytest.importorskip("torch", reason="PyTorch's counter is the oracle")
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():  # shapes alone
        module = timm.create_model(name).eval()
        for part in module.modules():
            if hasattr(part, "fused_attn"):
                part.fused_attn = False  # to two matrix products, which the counter knows
        with FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, 3, *size))
    assert cost.count(spec_of(network, options), size).madds == counter.get_total_flops() / 2
