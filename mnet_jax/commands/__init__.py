"""The command-line programs: each parses its arguments, calls the library and prints.

A command is one module with a function `main`. Only these modules read arguments and print.

- `command_line`: the list of commands, and the program `mnet`;
- `entry`: the start and end of every command: signals, output, exit code;
- `messages`: lines on standard error;
- `terminal`: consoles that print every text literally;
- `arguments`: command lines to frozen dataclasses;
- `supervision`: reports an abort of a library as one line;
- `platforms`: whether JAX finds the platform that is asked for;
- `ablate`: trains and compares arms;
- `sweeps`: the arms and the trials of a sweep;
- `stored_sweeps`: status, report and export of stored sweeps;
- `catalog`: tables of presets and recipes;
- `train`: trains one network;
- `processes`: one training in several processes;
- `planning`: the arguments, arm and data set of `ablate` and `train`;
- `displays`: progress bars and tables;
- `evaluate`: classifies images, measures accuracy;
- `convert`: converts other libraries' weights;
- `trained_models`: the arguments of commands that read trained models;
- `cost`: the cost of networks, layer by layer;
- `benchmark`: the speed of this library and of others;
- `manifold`: V2's Fig. 1;
- `bottlenecks`: lost information in bottlenecks;
- `activations`: dead units and dead kernels;
- `features`: kernels and feature maps.
"""
