"""Released models that lie elsewhere: which there are, and how they get into the cache and onto the Hub."""
