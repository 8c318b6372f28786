"""How much each term of the loss counts: overlap against what must not move, and the step size beside them.

`train.retain` is the distance to the base model on retain prompts (the recipe needs `pairs.retain` and
`train.batch_retain`). Weights compare across layers as long as `train.overlap.relative` is on.
"""

from ray import tune

SPACE = {
    "train.overlap.weight": tune.loguniform(0.1, 10),
    "train.retain.weight": tune.loguniform(0.5, 50),
    "train.lr": tune.loguniform(1e-4, 2e-3),
}
