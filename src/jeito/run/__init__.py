"""One conversation: a behaviour and a model make a run."""
