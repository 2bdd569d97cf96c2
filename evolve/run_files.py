"""The names of what a run leaves in its directory, for whoever looks there without carrying one on."""

REPORT, REPORT_DATA, CONFIG, FACTS = "report.html", "report.json", "config.yaml", "facts.json"
IDENTITY = "identity"
JOURNAL, GENERATIONS = "journal.jsonl", "generations.jsonl"
"""Accepted steps, and the lineage; both hash-chained."""
ESTIMATE = "estimate.json"
"""What was told before the run began."""
HARVEST, COUNCILS, DEV = "harvest", "councils", "dev"
"""A generation's stages on TRAIN and DEV: their files of traces (DEV: a directory), and part of their steps' names."""
OPEN_STAGES = (HARVEST, COUNCILS, DEV)
"""The only stages whose judgements may steer anything; whatever else is judged stays where it was judged."""
DEV_SEATS, DEV_AGAIN, DEV_TWINS = "seats", "again", "twins"
"""Of DEV: today's seats beside the candidates, the winner on items that were kept from choosing, and placebos."""
