"""Fine-tuning with a configuration file, on as many processes as there are."""
