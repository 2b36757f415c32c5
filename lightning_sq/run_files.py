"""What commands leave in a folder and others of them look for; nothing heavy is imported to know it.

config.yaml, .step               of a run: how it was trained, and the step that is being taken
checkpoints/last.ckpt            beside it last-1.ckpt, best.ckpt, best_robust.ckpt
logs/version_0/metrics.csv       a row each time that something was logged
results.json, results.csv        of an evaluation
examples.safetensors             a few of its images, as the models see them
robustness.png, report.html      what is drawn from these
verdicts/MODEL/rank-0.sqlite     of an evaluation that is not finished, a file each process
"""

CONFIG_FILE, STEP_FILE = "config.yaml", ".step"
CHECKPOINTS, LAST_CHECKPOINT = "checkpoints", "checkpoints/last.ckpt"
LOGS, METRICS_FILE, ALL_METRICS = "logs", "metrics.csv", "logs/*/metrics.csv"
JSON_FILE, CSV_FILE, EXAMPLES_FILE = "results.json", "results.csv", "examples.safetensors"
FIGURE_FILE, REPORT_FILE = "robustness.png", "report.html"
VERDICTS, VERDICT_FILES, ALL_VERDICTS = "verdicts", "rank-*.sqlite", "verdicts/*/rank-*.sqlite"
