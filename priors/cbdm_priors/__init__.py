"""Priors over conditions, and what to do about the one you were given."""
