"""The loop, and a step of it: on one time course, on tasks of a corpus, anchored to a base."""
