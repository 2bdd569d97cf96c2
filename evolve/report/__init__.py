"""The report of a run: a record (`data`), and one self-contained HTML page that is a pure function of it (`page`)."""
