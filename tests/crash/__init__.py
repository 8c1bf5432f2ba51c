"""Processes that are really killed, and what the database holds afterwards."""
