"""The topology: YAML through a gate, a typed model, and checks with line numbers."""
