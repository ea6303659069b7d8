"""Interceptors of channels, for callers that block (`grpc`) and on an event loop (`grpc.aio`)."""
