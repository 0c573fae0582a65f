"""A model behind HTTP: a page for people, JSON for programs, on this machine unless told otherwise."""
