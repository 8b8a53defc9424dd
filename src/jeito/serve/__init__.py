"""Others call it: behaviours behind OpenAI's API."""
