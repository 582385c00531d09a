"""Breaks things under running workers and judges the outcome: `python -m tools.chaos [FAULT…]`, or `make chaos`.

A small university goes on during each fault. Once it is over, every cohort must soon be right, foreign cohorts
untouched, and nobody removed, at any time, whose removal nobody had requested.
"""
