"""File formats of weights: PyTorch's ``.pth``, pickles, Paddle's ``.pdparams`` layout and safetensors.

Every reader treats a file as untrusted input and never executes anything that it contains.
"""
