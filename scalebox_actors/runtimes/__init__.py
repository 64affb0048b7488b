"""Where containers run: one module per kind of engine; `choose.open_runtime` picks one.

Nothing is imported here: the shepherd of the process runtime starts without any site package.
"""
