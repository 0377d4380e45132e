"""Train, tune and adapt: from a text file to a model that can be trusted.

Importing this imports no PyTorch: `gpt2.train.data` works without it, and what needs it says so in its first
line. Install it with `pip install "gpt2[train]"`.
"""
