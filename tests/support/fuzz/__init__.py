"""Random mutations of the files that the project reads, and what commands must not make of them."""
