"""From a network under a policy to a board: the package, what every kind of board adds to it, its simulation."""
