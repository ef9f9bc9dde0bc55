"""A model applied to snapshots, in the user's time: pushed to other times, or followed."""
