"""Make the behaviour cheaper: adapters and control vectors."""
