"""The equation dz/dt = A z + b in closed form, and the hypernetwork that predicts it.

The modules that a checkpoint needs are copied beside it: flat, with one-dot imports, and nothing
but torch, transformers, safetensors and huggingface-hub. `pretrained` holds the weights that come
with the package.
"""
