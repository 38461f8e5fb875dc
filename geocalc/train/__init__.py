"""Training: recipe, data, loss, loop, checkpoints, registration."""
