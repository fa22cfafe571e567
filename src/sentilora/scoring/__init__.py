"""Texts in, answers out: all scoring goes through this package."""
