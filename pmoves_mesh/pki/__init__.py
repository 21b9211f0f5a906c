"""The mesh's own certificate authority: what it signs, how it signs, and the files it is kept in."""
