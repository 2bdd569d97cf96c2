"""Who sits and who is kept: arrangements, coverage, the archive of niches, and what is inherited."""
