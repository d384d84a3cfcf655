"""Benchmarks against other libraries: one process per contender, sampled in turn, with spreads.

- `suites`: the cases of each suite;
- `cases`: a program, its sizes, and the least work it needs;
- `contenders`: who is measured, in which cases;
- `jax_contenders`: this library, straightforward Flax, Keras on JAX;
- `torch_contenders`: PyTorch: eager, compiled, TorchScript;
- `deployed_contenders`: ONNX Runtime and LiteRT;
- `timing`: times the contenders in turn;
- `worker`: a contender's process;
- `machine`: this machine's peak rate and bandwidth;
- `layers`: a network's layers one by one;
- `photographs`: JPEG files for the input pipeline;
- `table`: makes the table that `auto` follows;
- `report`: a result as text and Markdown.
"""
