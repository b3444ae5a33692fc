"""Metrics, statistics, off-policy evaluation, and the report."""
