"""Texts in, answers out: the one door that everything scores through."""
