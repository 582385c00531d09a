"""The demo: the whole job on embedded servers."""
