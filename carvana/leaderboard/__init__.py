"""The leaderboard of architectures and runs."""
