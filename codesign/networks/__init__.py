"""Networks that ship with the toolkit, and the registry that finds them."""
