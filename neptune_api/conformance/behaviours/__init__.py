"""Behaviours by area: a file for each, a test for each behaviour."""
