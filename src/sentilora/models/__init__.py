"""A base model, its adapter, and how they compute."""
