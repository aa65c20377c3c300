"""Restricted Boltzmann machines with binary synapses, whose true weights are known."""
