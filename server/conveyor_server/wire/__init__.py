"""The ring between clients and the engine: protobuf messages in, protobuf messages out."""
