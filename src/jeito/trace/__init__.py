"""What happened: every run, kept."""
