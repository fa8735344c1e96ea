"""The compiled update: programs, live optimizers, losses per sample."""
