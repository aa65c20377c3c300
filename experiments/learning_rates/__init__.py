"""Is there one right learning rate? The whole grid of rates and momenta as one program."""
