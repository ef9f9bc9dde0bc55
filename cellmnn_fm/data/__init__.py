"""The data path: file, values, latent states, time course, corpus, task."""
