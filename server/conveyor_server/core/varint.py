"""Numbers as protobuf writes them: seven bits a byte, the lowest first (protobuf.dev, "Base 128 Varints")."""


def varint(number: int) -> bytes:
    """The bytes of a number that is not negative."""
    if number <= 0x7F:
        return bytes((number,))
    pieces = bytearray()
    while number > 0x7F:
        pieces.append(number & 0x7F | 0x80)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)
