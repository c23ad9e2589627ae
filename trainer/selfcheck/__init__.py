"""Checks that a machine trains as the promises say."""
