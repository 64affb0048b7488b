"""How a module's program meets its messages: one module per launch mode."""
