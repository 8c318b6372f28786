"""Search spaces: one small module a space."""
