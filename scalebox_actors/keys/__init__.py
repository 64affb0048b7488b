"""The keys of a deployment: who logs in with what, and who trusts whom."""
