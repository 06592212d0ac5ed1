"""Helpers that several tests use: small datasets, environments, suites, references."""
