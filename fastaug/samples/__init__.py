"""Which images there are, and where their bytes come from. Knows no torch."""
