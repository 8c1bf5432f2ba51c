"""The tools of this installation: one typed function a file, named as the file. Each file here is found at start-up.

The docstring is what the model reads. A tool answers in text, and says in that text what went wrong.
"""
