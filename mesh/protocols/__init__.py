"""How a mesh decides: one short file a protocol, its options beside what it does."""
