"""Benchmarks that compare this library with others.

Each implementation that is timed, ours included, is a contender. Each contender runs in its own
process. The processes take turns, and times are given with ranges.

- `suites`: the suites, and their cases that are convolutions or networks;
- `cases`: benchmark cases: a program, its sizes, and the least work that it needs;
- `contenders`: the contenders, and the cases that each can run;
- `jax_contenders`: this library, a plain Flax network, Keras on JAX;
- `quantized_contenders`: quantization-aware training, and the same step in floating point;
- `torch_contenders`: PyTorch: eager, compiled, TorchScript;
- `deployed_contenders`: ONNX Runtime and LiteRT;
- `timing`: times the contenders in turn;
- `worker`: the process of a contender;
- `machine`: measures this machine's peak arithmetic rate and memory bandwidth;
- `layers`: times a network's layers one by one;
- `photographs`: writes JPEG files for the input pipeline;
- `table`: makes the table from which the lowering `auto` chooses;
- `report`: a result as text and Markdown.
"""
