"""What a run will cost and can show, and what the machine lacks for it, before it is begun."""
