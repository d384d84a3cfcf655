"""The command-line programs: each parses its arguments, calls the library and prints.

A command is one module with a function `main`. Only these modules read arguments and print.

- `command_line`: the list of commands, and the program `mnet`;
- `entry`: the start and end of every command: signals, output, exit code;
- `messages`: lines on standard error;
- `terminal`: consoles that print every text literally;
- `arguments`: parses command lines into frozen dataclasses;
- `supervision`: prints one line if a C++ library aborts the process;
- `platforms`: checks that JAX finds the platform in JAX_PLATFORMS;
- `ablate`: trains and compares arms;
- `sweeps`: makes the arms of a sweep, and runs its trials;
- `stored_sweeps`: status, report and export of stored sweeps;
- `catalog`: tables of presets and recipes;
- `train`: trains one network;
- `processes`: training of one network in several processes;
- `planning`: the arguments that `ablate` and `train` share, and the arm and data set that the
  arguments select;
- `displays`: progress bars and tables;
- `evaluate`: classifies images, measures accuracy;
- `convert`: converts other libraries' weights;
- `trained_models`: the arguments of commands that read trained models;
- `cost`: the cost of networks, layer by layer;
- `benchmark`: the speed of this library and of others;
- `manifold`: V2's Fig. 1;
- `bottlenecks`: information lost in bottlenecks;
- `activations`: dead units and dead kernels;
- `features`: kernels and feature maps;
- `quantize`: what rounding of networks costs, and what reduces the loss;
- `export`: files of networks for other programs.
"""
