"""The HTTP wire: what the protos say about it, and messages as requests and responses. No transport here."""
