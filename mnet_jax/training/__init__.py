"""The training loop and its parts. They work with any apply function and any batches.

- `loop`: epochs of steps, evaluations and checkpoints;
- `epoch`: one epoch: its progress, losses and time;
- `step`: one step of training, one of evaluation, as pure functions;
- `evaluation`: loss and accuracy on a split;
- `metrics`: exact means over masked batches;
- `optimizer`: optimizers and schedules of the papers;
- `hyperparameters`: which training settings are compiled into a step, and which are its arguments;
- `mixing`: Mixup and CutMix;
- `microbatches`: micro-batches and normalization groups;
- `placement`: how devices share a batch;
- `agreement`: agreement of the processes of one run;
- `memory`: whether a step fits into memory, and the largest batch that does;
- `stopping`: stop requests: Ctrl-C and SIGTERM;
- `monitoring`: divergence, dead channels, scalars;
- `results`: progress and results of a run, as plain numbers;
- `checkpoints`: saving, keeping and restoring the state of a run;
- `types`: the `Literal` types of options.
"""
