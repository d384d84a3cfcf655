"""A run: one training from its config to its result, and what is done with its model.

- `run`: the whole flow, from config to result;
- `program`: the compiled functions of a run;
- `distillation`: reads the teacher of a run and checks that it fits;
- `pretrained`: starts a run from the weights of a saved model;
- `quantizing`: runs that quantize a trained network;
- `run_directory`: the files that a run keeps: checkpoints, scalars, its model;
- `preview`: the first batch of a run;
- `inference`: predictions and accuracy of a trained model.
"""
