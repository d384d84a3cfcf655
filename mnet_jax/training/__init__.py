"""The training loop and its parts: they take an apply function and batches, and know no model.

- `loop`: epochs of steps, evaluations and checkpoints;
- `epoch`: one epoch;
- `step`: one step of training, one of evaluation, as pure functions;
- `evaluation`: loss and accuracy on a split;
- `metrics`: exact means over masked batches;
- `optimizer`: optimizers and schedules of the papers;
- `hyperparameters`: what is compiled into a step, and what it takes as numbers;
- `mixing`: Mixup and CutMix;
- `microbatches`: parts of a batch;
- `placement`: how devices share a batch;
- `agreement`: processes of one run agree on values;
- `memory`: the batch that fits;
- `stopping`: signals;
- `monitoring`: divergence, dead channels, scalars;
- `results`: progress and results of a run;
- `checkpoints`: saving and resuming;
- `types`: the closed choices of training.
"""
