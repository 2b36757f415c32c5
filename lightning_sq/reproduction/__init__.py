"""The paper's claims, each trained for and judged: what `lightning-sq reproduce` runs and writes."""
