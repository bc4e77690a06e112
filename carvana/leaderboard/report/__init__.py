"""A leaderboard as files: Markdown, CSV, text and one self-contained page."""
