"""Starts the trainer somewhere else: as local worker processes, or as a Vertex AI job."""
