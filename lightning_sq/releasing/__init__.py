"""Makes a release of a checkpoint: card, golden logits, programs for other runtimes, and the check that it loads."""
