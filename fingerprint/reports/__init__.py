"""Comparisons as JSON, Markdown, one HTML file and terminal tables."""
