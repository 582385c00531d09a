"""Breaks things under running workers and judges what came of it: `python -m tools.chaos [FAULT…]`, or `make chaos`.

A small university goes on living while a fault is on. When it is over, every cohort must soon be true, nothing that
isn't ours touched, and nobody removed, at any time, whose removal nobody had asked for.
"""
