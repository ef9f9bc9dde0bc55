"""A fitted model as an object: weights, genes, record; how it comes about and where it is kept."""
