"""A laboratory for MobileNets in JAX: models, fast depthwise convolution, trustworthy ablations.

The packages, from the architectures up to the commands:

- `architectures`: the papers' networks as data: specs, dialects, shapes of layers;
- `ops`: convolutions with several lowerings, and the table that chooses among them;
- `models`: Linen modules, one factory for each network, saved models;
- `nnx`: the networks of `models` as Flax NNX modules;
- `weights`: conversion from and to torchvision, timm, Keras and TF-slim; their files; the hub;
- `quantization`: what 8 bits and fewer cost, and what reduces the loss;
- `export`: trained networks as files for other programs: StableHLO, LiteRT, ONNX;
- `data`: where images come from; decoding, augmentation, batches;
- `training`: optimizer, step, loop, devices, monitoring, checkpoints;
- `analysis`: cost by arithmetic; manifolds, bottlenecks, dead units, features by measurement;
- `runs`: one training from its config to its result, and what is done with its model;
- `options`: ablation axes, which are also the commands' flags; recipes;
- `statistics`: intervals, comparisons and their power;
- `ablation`: presets, the store of trials, runners, reports;
- `benchmark`: this library against others: contenders, timing, reports;
- `plots`: Matplotlib figures of analyses, benchmarks and batches;
- `commands`: the command-line programs: they read arguments, call the other packages and print;
- `config`: the config of a run, checked when it is made;
- `changes`: the differences of two configs, field by field;
- `serialization`: frozen dataclasses as JSON;
- `validation`: checks of values from outside, and the form of error messages;
- `caches`: directories for what is compiled or measured once for a machine;
- `files`: atomic writes, durable directories, locks;
- `process`: environment variables that make a process faster;
- `host_memory`: the memory available to a process, and errors when it runs out.
"""

__version__ = "0.1.0"
