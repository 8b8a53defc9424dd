"""Does it behave so? Claims and comparisons over what was run."""
