"""The innermost ring: plain Python and numpy. No I/O, no clock of its own, no asyncio."""
