"""Composition: settings to parts, threads, signals, health, metrics endpoint."""
