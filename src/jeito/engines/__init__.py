"""Where tokens come from: a shelf of engines behind one seam."""
