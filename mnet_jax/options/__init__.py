"""The options of an experiment: ablation axes, which are also the commands' flags, and recipes.

An axis reads its value from an arm or a run's config, and copies the arm or config with another
value of the axis.

- `axes`: all axes, and grids of their values;
- `axis`: the class `Axis`;
- `architecture_axes`: axes that change the network;
- `quantization_axes`: axes of quantization that are more than a field of the config;
- `config_axes`: axes made from the fields of the config's dataclasses;
- `recipes`: named combinations of a network, a data set and training settings.
"""
