"""Will this model do? What its files say, before a byte of weights is read."""
