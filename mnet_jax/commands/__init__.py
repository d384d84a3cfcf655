"""The command-line programs: each parses its arguments, calls the library and prints.

A command is one module with a function `main`. Only these modules read arguments and print.

- `command_line`: the commands as programs, with `mnet`;
- `entry`: the start and end of every command: signals, output, exit code;
- `messages`: lines on standard error;
- `terminal`: consoles that print every text literally;
- `arguments`: command lines to frozen dataclasses;
- `supervision`: turns an abort into one line;
- `platforms`: whether JAX finds the platform that is asked for;
- `ablate`: trains and compares arms;
- `sweeps`: its arms and its trials;
- `stored_sweeps`: its actions that read stored trials;
- `catalog`: tables of presets and recipes;
- `train`: trains one network;
- `processes`: in several processes;
- `planning`: the arguments that `ablate` and `train` share;
- `displays`: progress;
- `evaluate`: classifies images, measures accuracy;
- `convert`: other libraries' weights;
- `trained_models`: the arguments of commands that read trained models;
- `cost`: layers and their cost;
- `benchmark`: speed against others;
- `manifold`: V2's Fig. 1;
- `bottlenecks`: what bottlenecks lose;
- `activations`: dead units;
- `features`: kernels and feature maps.
"""
