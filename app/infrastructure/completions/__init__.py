"""Completion events on their way in and out."""
