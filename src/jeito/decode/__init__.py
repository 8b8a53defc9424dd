"""How tokens are chosen: from rows of logits to text that is safe to show."""
