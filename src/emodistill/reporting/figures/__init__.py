"""The figures of a report. Each function returns a `Figure`: its words, and how it is drawn."""
