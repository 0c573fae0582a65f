"""The automatic choice: which sources are looked at, what is raced in which time, and who wins."""
