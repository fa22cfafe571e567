"""Training: transformers' Trainer, its callbacks, and what is planned before and checked after."""
