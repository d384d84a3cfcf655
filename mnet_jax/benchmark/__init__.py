"""Benchmarks of this library against others, the contenders.

Each contender runs in its own process. The processes take turns, and the times have ranges.

- `suites`: the cases of each suite;
- `cases`: a program, its sizes, and the least work it needs;
- `contenders`: the contenders, and the cases that each can run;
- `jax_contenders`: this library, a plain Flax network, Keras on JAX;
- `torch_contenders`: PyTorch: eager, compiled, TorchScript;
- `deployed_contenders`: ONNX Runtime and LiteRT;
- `timing`: times the contenders in turn;
- `worker`: a contender's process;
- `machine`: this machine's peak rate and bandwidth;
- `layers`: a network's layers one by one;
- `photographs`: JPEG files for the input pipeline;
- `table`: makes the table from which the lowering `auto` chooses;
- `report`: a result as text and Markdown.
"""
