"""Matplotlib figures: each function draws a result of another package.

- `style`: sizes, colours, axes, captions and labels of all figures;
- `means`: means over models, with bands;
- `manifold`: curves after an activation function;
- `bottlenecks`: information lost after bottlenecks;
- `dead_units`: dead units and dead kernels;
- `features`: kernels and feature maps;
- `quantization`: rounded networks, and the noise of each kernel;
- `roofline`: a network's layers on the roofline;
- `benchmark`: time against multiply-adds;
- `contact_sheet`: a batch of images with class names.
"""
