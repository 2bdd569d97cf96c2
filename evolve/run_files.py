"""The names of what a run leaves in its directory, for whoever looks there without carrying one on."""

REPORT, REPORT_DATA, CONFIG, FACTS = "report.html", "report.json", "config.yaml", "facts.json"
IDENTITY = "identity"
ESTIMATE = "estimate.json"
"""What was told before the run began."""
