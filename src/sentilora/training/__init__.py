"""Training: transformers' Trainer with our callbacks, plans before a run and checks after it."""
