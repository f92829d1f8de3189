"""Four families of small reasoning tasks with verifiers, each also with four options. Pure Python, seeded."""
