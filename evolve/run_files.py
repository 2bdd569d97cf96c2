"""The names of what a run leaves in its directory, for whoever looks there without carrying one on."""

REPORT, REPORT_DATA, CONFIG, FACTS = "report.html", "report.json", "config.yaml", "facts.json"
IDENTITY = "identity"
JOURNAL, GENERATIONS = "journal.jsonl", "generations.jsonl"
"""Accepted steps, and the lineage; both hash-chained."""
ESTIMATE = "estimate.json"
"""What was told before the run began."""
