"""Analyses of a network: its cost from its spec, its behaviour from its activations.

- `cost`: parameters, multiply-adds, bytes and receptive fields; the roofline;
- `summary`: the cost of a network as text;
- `manifold`: how much of a curve an activation function preserves: V2's Fig. 1;
- `bottlenecks`: how much of a bottleneck's information an activation function loses;
- `dead_units`: channels that are never or always active, and kernels whose norm is almost zero;
- `features`: depthwise kernels and feature maps;
- `choices`: options and defaults of the analyses.
"""
