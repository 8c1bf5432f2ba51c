"""Identity providers: tokens that others sign."""
