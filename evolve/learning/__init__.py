"""From judged traces to rows, and from rows to recipes: credit, curation, data cards, variation."""
