"""What clusters do to a run, and how long one takes there: signals, hangs, dead nodes, time limits, scaling."""
