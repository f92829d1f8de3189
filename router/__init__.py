"""Which model and which technique answers this query at the least cost."""
