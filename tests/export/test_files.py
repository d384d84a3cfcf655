"""Exported files in their own runtimes, beside the network in NumPy, and their operations."""

import dataclasses
from collections import Counter

import by_hand
import jax
import numpy as np
import pytest
from folded_networks import flat
from messages import one_line
from small_networks import (
    mixed,
    model_and_variables,
    small_hybrid,
    small_v1,
    small_v2,
    small_v3,
    small_v4,
)

from mnet_jax import export, models, quantization
from mnet_jax.architectures import Attention, transforms, walk
from mnet_jax.architectures.dense_tasks import with_output_stride
from mnet_jax.data.scaling import scaled
from mnet_jax.models import SavedModel, View

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SIDE = 33  # odd, so that padding differs between the sides of a map
NETWORKS = {
    "v1": small_v1(),
    "v2": small_v2(),
    "v2-expansion-shortcut": small_v2(shortcut="expansion"),
    "v3": small_v3(),
    "v4": small_v4(),
    "v2-torchvision": small_v2(dialect="torchvision"),
    "v2-dilated": with_output_stride(small_v2(), 8),
    "mixed": mixed(),
}
HYBRIDS = {
    "hybrid": small_hybrid(dialect="timm"),
    "hybrid, gelu": transforms.with_activation(small_hybrid(), "gelu"),
    "hybrid, mha": transforms.with_attention(small_hybrid(), "mha"),
}
FLOATS = ("stablehlo", "litert", "onnx")
INTEGERS = ("litert-int8", "onnx-int8")
VIEW = View(resolution=SIDE, photographs=True, scaling="imagenet")
PIXELS = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def require(name):
    for package in export.FORMATS[name].packages:
        reason = f"{package}, of the extra [{export.FORMATS[name].extra}], writes the file"
        pytest.importorskip(package, reason=reason)


def numpy_logits(spec, variables, images):
    return by_hand.network(spec, variables, images)[0]


def saved(spec, **how):
    names = tuple(f"class {i}" for i in range(spec.head.num_classes))
    return SavedModel(*model_and_variables(spec, **how), names, VIEW)


def network_of(name):
    return export.Network.of(saved(NETWORKS[name]))


def file_of(format, network):
    require(format)
    if export.FORMATS[format].integers:
        network = export.in_eight_bits(network, [PIXELS])
    return network, export.to_file(format, network)


def read_litert(file):
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(file))


def litert_operations(file):
    from ai_edge_litert import schema_py_generated as schema

    model = read_litert(file)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    return Counter(
        names[model.operatorCodes[each.opcodeIndex].builtinCode]
        for each in model.subgraphs[0].operators
    )


def onnx_nodes(file):
    import onnx

    return onnx.load_from_string(file).graph.node


@pytest.mark.parametrize("format", FLOATS)
@pytest.mark.parametrize("name", [*NETWORKS, *HYBRIDS])
def test_a_file_gives_the_logits_of_the_network_in_numpy(name, format):
    model = saved((NETWORKS | HYBRIDS)[name])
    _, file = file_of(format, export.Network.of(model))
    logits = export.load(format, file).run(PIXELS)
    wanted = numpy_logits(model.model.spec, model.variables, scaled(PIXELS, "imagenet"))
    np.testing.assert_allclose(logits, wanted, atol=2e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_litert_file_has_one_operation_a_layer(name):
    for format in ("litert", "litert-int8"):
        network, file = file_of(format, network_of(name))
        found = litert_operations(file)
        layers = [*walk(network.spec, SIDE)]
        kinds = Counter(layer.kind for layer in layers)
        assert found["DEPTHWISE_CONV_2D"] == kinds["depthwise"]
        assert found["CONV_2D"] == kinds["pointwise"] + kinds["conv"]
        assert found["FULLY_CONNECTED"] == kinds["dense"]
        strays = {*found} - {"DEPTHWISE_CONV_2D", "CONV_2D", "FULLY_CONNECTED"}
        assert strays <= {"CAST", "MUL", "ADD", "MEAN", "QUANTIZE", "DEQUANTIZE", "HARD_SWISH"}
        activations = Counter(layer.activation for layer in layers)
        assert found["HARD_SWISH"] == activations["hard_swish"]
        assert found["CAST"] == 1  # of the pixels
        assert found["QUANTIZE"] == found["DEQUANTIZE"] == (format == "litert-int8")


def test_attention_is_two_products_and_a_softmax():
    spec = HYBRIDS["hybrid, gelu"]
    blocks = sum(isinstance(block, Attention) for block in spec.blocks)
    activations = Counter(layer.activation for layer in walk(spec, SIDE))
    found = litert_operations(file_of("litert", export.Network.of(saved(spec)))[1])
    dense = sum(layer.kind == "dense" for layer in walk(spec, SIDE))
    products = found["BATCH_MATMUL"] + found["FULLY_CONNECTED"] - dense
    assert (products, found["SOFTMAX"], found["GELU"]) == (2 * blocks, blocks, activations["gelu"])
    nodes = onnx_nodes(file_of("onnx", export.Network.of(saved(spec)))[1])
    found = Counter(node.op_type for node in nodes)
    assert (found["MatMul"], found["Softmax"]) == (2 * blocks, blocks)
    assert found["Erf"] == activations["gelu"]


def test_a_hybrid_is_refused_in_8_bits_with_the_name_of_a_layer():
    network = export.Network.of(saved(HYBRIDS["hybrid"]))
    line = one_line(ValueError, lambda: export.in_eight_bits(network, [PIXELS]))
    assert line.startswith("quantization of block_4/input: got 'a layer of attention', legal: ")


def test_litert_pads_only_where_it_has_no_padding_of_the_kind():
    """LiteRT has `same` and no padding; torchvision's, at stride 2 and even sizes, is neither."""
    spec = NETWORKS["v2-torchvision"]
    model = saved(spec)._replace(view=View(resolution=32, photographs=True))
    _, file = file_of("litert", export.Network.of(model))
    strided = [layer for layer in walk(spec, 32) if layer.stride == 2]
    assert litert_operations(file)["PAD"] == len(strided) > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_an_onnx_file_has_one_node_a_layer(name):
    for format in ("onnx", "onnx-int8"):
        network, file = file_of(format, network_of(name))
        nodes = onnx_nodes(file)
        found = Counter(node.op_type for node in nodes)
        layers = [*walk(network.spec, SIDE)]
        kinds = Counter(layer.kind for layer in layers)
        assert found["Gemm"] == kinds["dense"]
        convolutions = [node for node in nodes if node.op_type == "Conv"]
        groups = [
            next(each.i for each in node.attribute if each.name == "group") for node in convolutions
        ]
        assert groups == [
            layer.inputs if layer.kind == "depthwise" else 1
            for layer in layers
            if layer.kind != "dense"
        ]
        assert found["Transpose"] == 1  # of the image
        assert not {"Reshape", "Pad", "Expand"} & {*found}


def test_a_batch_may_have_any_size():
    for format in ("stablehlo", "onnx"):
        _, file = file_of(format, network_of("v2"))
        runtime = export.load(format, file)
        whole = runtime.run(PIXELS)
        np.testing.assert_allclose(runtime.run(PIXELS[:1]), whole[:1], rtol=1e-4, atol=1e-4)


def test_a_file_can_take_scaled_images():
    model = saved(NETWORKS["v1"])
    network = export.Network.of(model, takes_pixels=False)
    images = scaled(PIXELS, "imagenet")
    wanted = numpy_logits(model.model.spec, model.variables, images)
    for format in FLOATS:
        logits = export.load(format, file_of(format, network)[1]).run(images)
        np.testing.assert_allclose(logits, wanted, atol=2e-4 * np.abs(wanted).max())


def test_stablehlo_names_the_platforms_that_it_runs_on():
    exported = jax.export.deserialize(bytearray(file_of("stablehlo", network_of("v3"))[1]))
    assert exported.platforms == ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("format", INTEGERS)
@pytest.mark.parametrize("name", ["v1", "v2", "v3", "v4"])
def test_a_file_in_integers_computes_the_rounded_network(name, format):
    network, file = file_of(format, network_of(name))
    checked = export.check(format, file, network, [PIXELS])
    assert checked.comparison.passes


@pytest.mark.parametrize("format", INTEGERS)
@pytest.mark.parametrize(
    ("layer", "changed", "factor"),
    [
        ("block_1/project", "kernel", 0),
        ("block_2/depthwise", "kernel", -1),
        ("head/conv", "bias", 0),
        ("head/classifier", "kernel", -1),
    ],
)
def test_one_wrong_channel_in_integers_is_found_and_named(layer, changed, factor, format):
    network, _ = file_of(format, network_of("v2"))
    (place,) = [each for each in walk(network.spec, SIDE) if each.name == layer]
    path = place.kernel_path
    if changed == "bias":
        path = f"{layer}/norm/bias"
    values = np.array(network.params[path])
    channel = np.abs(values).reshape(-1, values.shape[-1]).sum(0).argmax()
    values[..., channel] *= factor
    wrong = dataclasses.replace(network, params={**network.params, path: values})
    file = export.to_file(format, wrong)
    with pytest.raises(export.ExportError, match=f"network: {layer} differs by"):
        export.check(format, file, network, [PIXELS])


@pytest.mark.parametrize("format", INTEGERS)
def test_another_step_in_integers_is_found_and_named(format):
    network, _ = file_of(format, network_of("v1"))
    path = "block_0/pointwise/output_quantizer"
    step, zero = network.integers.affines[path]
    affines = {**network.integers.affines, path: (np.float32(1.5) * step, zero)}
    wrong = dataclasses.replace(
        network, integers=dataclasses.replace(network.integers, affines=affines)
    )
    file = export.to_file(format, wrong)
    with pytest.raises(export.ExportError, match="block_0/pointwise"):
        export.check(format, file, network, [PIXELS])


@pytest.mark.parametrize("format", INTEGERS)
@pytest.mark.parametrize("dead", ["block_2/depthwise", "head/classifier"])
def test_an_activation_that_is_always_0_has_a_step_in_integers(dead, format):
    """Its range is [0, 0], from which no step follows."""
    model = saved(NETWORKS["v2"])
    variables = flat(model.variables["params"])
    for name, value in variables.items():
        if name.startswith(f"{dead}/"):
            value[...] = -100 if name.endswith("norm/bias") else 0
    exact = export.Network.of(model)
    network, file = file_of(format, exact)
    checked = export.check(format, file, network, [PIXELS])
    wanted = numpy_logits(model.model.spec, model.variables, scaled(PIXELS, "imagenet"))
    error = np.abs(checked.logits - wanted).max()
    assert error <= 0.1 * np.abs(wanted).max()


def test_the_steps_in_a_file_are_those_that_were_chosen():
    network, file = file_of("litert-int8", network_of("v2"))
    written = [
        float(tensor.quantization.scale[0])
        for tensor in read_litert(file).subgraphs[0].tensors
        if tensor.quantization is not None and tensor.quantization.scale is not None
        if len(tensor.quantization.scale) == 1
    ]
    for path, (step, _) in network.integers.affines.items():
        if not path.endswith("preactivation_quantizer"):
            assert np.isclose(written, step, rtol=1e-6).any(), path
    network, file = file_of("onnx-int8", network_of("v2"))
    import onnx

    constants = {
        each.name: onnx.numpy_helper.to_array(each)
        for each in onnx.load_from_string(file).graph.initializer
    }
    for path, (step, zero) in network.integers.affines.items():
        assert constants[f"{path}/step"] == step and constants[f"{path}/zero"] == zero
    for layer, step in network.integers.kernel_steps.items():
        np.testing.assert_array_equal(constants[f"{layer}/kernel/step"], step)


@pytest.mark.parametrize("format", ["litert", "onnx"])
def test_a_file_of_other_weights_is_refused_with_its_first_wrong_layer(format):
    network = network_of("v2")
    _, file = file_of(format, network)
    model = saved(NETWORKS["v2"])
    (layer,) = [each for each in walk(model.model.spec, SIDE) if each.name == "block_2/depthwise"]
    wrong = flat(model.variables["params"])[layer.kernel_path]
    wrong *= 1.5
    with pytest.raises(export.ExportError, match="first layer that differs is block_2/depthwise"):
        export.check(format, file, export.Network.of(model), [PIXELS])


def test_what_does_not_fit_a_format_is_refused():
    network = network_of("v1")
    require("litert")
    require("onnx")
    for name in INTEGERS:
        one_line(ValueError, lambda name=name: export.to_file(name, network), name, "8 bits")
    rounded = export.in_eight_bits(network, [PIXELS])
    for name in ("litert", "onnx"):
        one_line(ValueError, lambda name=name: export.to_file(name, rounded), "floating point")
    model = saved(NETWORKS["v1"])
    one_line(ValueError, lambda: export.Network.of(model._replace(view=None)), "view")
    one_line(ValueError, lambda: export.in_eight_bits(network, []), "batches", "one or more")
    bias = flat(model.variables["params"])["head/classifier/bias"]
    bias[0] = np.nan
    one_line(ValueError, lambda: export.Network.of(model), "head/classifier/bias", "finite")
    bias[0] = 0
    setting = quantization.Quantization(weight_bits=4, activation_bits=8)
    few = quantization.quantized(
        network.model,
        network.variables,
        setting,
        quantization.observe(network.model, network.variables, [scaled(PIXELS, "imagenet")]),
    )
    few_bits = model._replace(model=few[0], variables=few[1])
    one_line(ValueError, lambda: export.Network.of(few_bits), "bits", "4 and 8", "8")


def test_what_the_file_says_of_itself():
    _, file = file_of("onnx", network_of("v1"))
    import onnx

    told = {each.key: each.value for each in onnx.load_from_string(file).metadata_props}
    assert told["architecture"] == "mobilenet_v1" and '"class 6"' in told["class_names"]
    _, file = file_of("litert", network_of("v1"))
    model = read_litert(file)
    (entry,) = [each for each in model.metadata if each.name == b"mnet_jax"]
    assert b"class 6" in bytes(model.buffers[entry.buffer].data)


@pytest.mark.parametrize("lowering", ["auto", "native", "fused"])
def test_anyone_can_export_the_network_itself(lowering):
    """An exported program does not depend on what was compiled on this machine."""
    how = {} if lowering == "fused" else {"lowering": lowering}
    model, variables = model_and_variables(small_v2(), **how)
    images = scaled(PIXELS, "imagenet")

    def program(images):
        if lowering == "fused":
            infer, params = models.fuse(model, variables)
            return infer(params, images)
        return model.apply(variables, images, train=False)

    exported = jax.export.export(jax.jit(program))(images)
    read = jax.export.deserialize(bytearray(exported.serialize()))
    wanted = numpy_logits(model.spec, variables, images)
    np.testing.assert_allclose(read.call(images), wanted, atol=2e-4 * np.abs(wanted).max())
