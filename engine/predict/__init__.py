"""What a request will give before it runs, from outcomes of others: chances of being right, and joules."""
