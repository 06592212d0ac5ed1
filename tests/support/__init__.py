"""What several tests use: small datasets, environments, suites, references."""
