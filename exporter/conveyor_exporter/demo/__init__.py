"""The demonstration: two small networks on real handwritten digits, which an extra brings."""
