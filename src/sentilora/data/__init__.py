"""Labeled texts: read from files, folders, the hub or the package; checked, split, described."""
