"""Training and its results: the Learner, its models and its learning rates, and what came of it."""
