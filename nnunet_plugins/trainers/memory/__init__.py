"""Memory of a training step: counted, estimated without a GPU, and made to fit."""
