"""What can be proven of a network: what it is made of, its interval bounds, and the integer program that it is."""
