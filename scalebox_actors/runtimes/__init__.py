"""Where containers run: one module per kind of engine."""
