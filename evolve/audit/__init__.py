"""What a run came to on AUDIT: rosters at their best, emergence, internalisation, collapse, the verdict."""
