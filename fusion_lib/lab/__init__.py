"""What makes the numbers of the pages."""
