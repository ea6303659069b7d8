"""What several parts need and no user imports."""
