"""The gRPC wire: channels and interceptors for threads (sync) and for event loops (aio)."""
