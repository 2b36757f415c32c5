"""Pure functions on tensors: the arithmetic of the method, with no state and no hyper-parameters of its own."""
