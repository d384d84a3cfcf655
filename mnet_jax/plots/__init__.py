"""Figures of what the other packages measure: functions from results to Matplotlib figures.

- `style`: sizes, colours, axes, captions and labels of all figures;
- `means`: means over models, with bands;
- `manifold`: curves after an activation function;
- `bottlenecks`: information lost in bottlenecks;
- `dead_units`: dead units and dead kernels;
- `features`: kernels and feature maps;
- `roofline`: a network's layers on the roofline;
- `benchmark`: time against multiply-adds;
- `contact_sheet`: a batch of images with class names.
"""
