"""Contenders for inference on servers and phones: ONNX Runtime and LiteRT."""

import os
import tempfile
from pathlib import Path

from mnet_jax.benchmark.cases import NetworkCase, Run


def onnx_runtime(case: NetworkCase) -> Run:
    """Runs the torch module of the spec, exported to ONNX, in ONNX Runtime."""
    import onnxruntime
    import torch

    from mnet_jax.benchmark.torch_contenders import Network

    if torch.cuda.is_available():
        raise OSError("ONNX Runtime is timed on CPUs only")
    images = torch.rand(case.batch_size, 3, case.resolution, case.resolution) * 2 - 1
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "network.onnx")
        torch.onnx.export(Network(case.spec).eval(), (images,), path, verbose=False)
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, feed)


def litert(case: NetworkCase) -> Run:
    """Runs our network with grouped convolutions, exported to StableHLO, in LiteRT."""
    import jax
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    from mnet_jax import models
    from mnet_jax.benchmark.jax_contenders import random_variables
    from mnet_jax.export.litert import convert

    if jax.default_backend() != "cpu":
        raise OSError("LiteRT is timed on CPUs only")
    model = models.MobileNet(spec=case.spec, lowering="grouped")
    variables = random_variables(case.spec)
    shape = (case.batch_size, case.resolution, case.resolution, 3)
    exported = jax.export.export(jax.jit(lambda x: model.apply(variables, x, train=False)))(
        jax.ShapeDtypeStruct(shape, np.float32)
    )
    interpreter = Interpreter(
        model_content=convert(
            exported.mlir_module_serialized, ["images"], "logits", integers=False
        ),
        num_threads=os.cpu_count(),
    )
    interpreter.allocate_tensors()
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    return interpreter.invoke
