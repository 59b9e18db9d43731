"""Inference engine for one long prompt prefix shared by many short prompts; see README.md."""
