"""The host's side of an exported network. Packages hold copies of these modules, which know nothing of the others."""
