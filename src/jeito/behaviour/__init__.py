"""What it should do: a behaviour, where each of its values comes from, the ones that ship."""
