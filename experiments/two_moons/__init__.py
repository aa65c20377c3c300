"""Two half moons, and the plane around them."""
