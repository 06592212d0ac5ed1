"""Inference with exported models: numpy, scipy, scikit-image, SimpleITK and onnxruntime, without nnU-Net and torch.

Every step computes what nnU-Net's prediction computes on a CPU, with the same precision, so that segmentations agree.
"""
