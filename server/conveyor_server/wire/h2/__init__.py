"""gRPC over an HTTP/2 library without I/O of its own, in one asyncio thread."""
