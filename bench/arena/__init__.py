"""The arena of stop policies: every policy and every control on the same questions, at equal joules."""
