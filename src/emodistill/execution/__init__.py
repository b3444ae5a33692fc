"""Work in independent pieces: what a piece and a plan are, and who carries it out (docs/scaling.md)."""
