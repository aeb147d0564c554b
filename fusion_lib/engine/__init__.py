"""What keeps a run safe and fast, and is no lesson."""
