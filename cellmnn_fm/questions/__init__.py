"""One file a question: the type of its answer, the function that answers it, its numerics."""
