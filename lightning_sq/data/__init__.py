"""From image files to batches of pixels in [0, 1]: what to read, in which order, cut how, and by which backend."""
