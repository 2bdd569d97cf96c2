"""Records of specialists, who approves them, what live outcomes do to them, and the hash-chained log of it."""
