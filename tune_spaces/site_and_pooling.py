"""What of a layer is compared, and at which tokens: the paper states the module (o_proj) and not the positions."""

from ray import tune

SPACE = {
    "train.overlap.module": tune.choice(["o_proj", "mlp", "residual"]),
    "train.overlap.pooling": tune.choice(["last", "mean", "aligned", "all"]),
}
