"""Networks of spiking neurons with binary weights, trained by a rule that is local in space and time."""
