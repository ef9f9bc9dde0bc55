"""How good predictions are: one time left out, beside baselines and known truth."""
