"""Doubles of the ports, shipped with the package: a broker in memory, a scripted runtime."""
