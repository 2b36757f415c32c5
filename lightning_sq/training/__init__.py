"""Lightning's side: the module, the optimiser, the callbacks and the command line around them."""
