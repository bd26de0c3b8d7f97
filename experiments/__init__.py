"""Experiment binaries: `python -m experiments.<name> --help`."""
