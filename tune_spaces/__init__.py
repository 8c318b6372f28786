"""Search spaces of `soo sweep --space NAME`: one small module a space.

A module has SPACE, a dict of config path -> Ray Tune sampler, or a function `space` that makes one from any of `layers`
(the model's depth), `site` (the recipe's layer, from 0) and `first` (its lowest LoRA layer). A sampled dict changes the
keys that it names.
"""
