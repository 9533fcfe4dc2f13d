"""What `tests/soak.py` draws, does and looks at."""
