"""Makes a release of a trained model: card, golden logits, programs for other runtimes, and the check that it loads."""
