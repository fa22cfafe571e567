"""Base models, adapters, and how they compute."""
