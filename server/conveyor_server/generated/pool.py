"""The descriptor pool of our messages: not the process-wide one, where the equal names of `tritonclient` would collide.

The generated code takes this module for `google.protobuf.descriptor_pool` (see `protos/generate.py`).
"""

from google.protobuf.descriptor_pool import DescriptorPool

_POOL = DescriptorPool()


def Default() -> DescriptorPool:
    """The one pool that all our messages live in."""
    return _POOL
