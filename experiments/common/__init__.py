"""What the experiments share; it imports none of them."""
